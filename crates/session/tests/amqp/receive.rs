//! What the client makes of everything that arrives: a part of `client`, where what it has asked for is.

use super::*;

impl Client {
    /// Bytes arrive.
    pub fn receive(&mut self, now: Time, bytes: &[u8], ledger: &mut Ledger) {
        self.heard = now;
        self.frames.push(bytes);
        loop {
            match self.frames.next() {
                Ok(None) => return,
                Ok(Some(frame)) => self.frame(frame, ledger),
                Err(error) => {
                    return ledger.fail(|| format!("I4: the client got a malformed stream: {error}"));
                }
            }
        }
    }

    fn frame(&mut self, frame: Frame, ledger: &mut Ledger) {
        if let Some(log) = self.log.as_mut().filter(|_| frame.kind == Kind::Method) {
            log.push(format!("the client gets {} {:?}", frame.channel, Method::parse(&frame.payload)));
        }
        if frame.kind == Kind::Heartbeat || matches!(self.stage, Stage::Gone) {
            return;
        }
        let is_close = matches!(self.stage, Stage::Closed(_) | Stage::Done);
        let is_answer = self.has_closed && frame.channel == 0;
        ledger.check(!is_close || is_answer, || format!("I4: the client got {frame:?} behind the end"));
        if frame.channel == 0 {
            return self.connection_method(&frame.payload, ledger);
        }
        if self.stage != Stage::Open {
            return;
        }
        match frame.kind {
            Kind::Method => self.method(frame.channel, &frame.payload, ledger),
            _ => self.content(frame, ledger),
        }
    }

    fn connection_method(&mut self, payload: &[u8], ledger: &mut Ledger) {
        match Method::parse(payload) {
            Ok(Method::Close { code, text }) => {
                let is_odd = self.is_unwelcome && code == 504;
                let is_allowed = self.may_be_closed && code == 320 || self.stage == Stage::Closing || is_odd;
                let text = String::from_utf8_lossy(text);
                ledger.check(is_allowed, || format!("I4: the client was closed with {code} {text}"));
                write::connection_close_ok(&mut self.out);
                ledger.client_left = true;
                self.stage = Stage::Closed(code);
            }
            Ok(Method::CloseOk) if self.stage == Stage::Closing => self.stage = Stage::Done,
            // Two Closes have crossed, and each is answered.
            Ok(Method::CloseOk) if std::mem::take(&mut self.has_closed) => {}
            Ok(Method::Blocked) => {
                ledger.check(!self.is_blocked, || "I4: the client was blocked twice".into());
                self.is_blocked = true;
            }
            Ok(Method::Unblocked) => {
                ledger.check(self.is_blocked, || {
                    "I4: the client was unblocked, it had not been blocked".into()
                });
                self.is_blocked = false;
            }
            other => ledger.fail(|| format!("I4: the client got {other:?} on channel 0")),
        }
    }

    fn method(&mut self, number: u16, payload: &[u8], ledger: &mut Ledger) {
        let Some(chan) = self.channels.get_mut(&number) else {
            // Two Closes have crossed, and each is answered.
            if MethodId::of(payload) == MethodId::CHANNEL_CLOSE_OK && self.crossed.remove(&number) {
                return;
            }
            return ledger
                .fail(|| format!("I4: the client got {payload:?} on channel {number}, which is closed"));
        };
        let Ok(method) = Method::parse(payload) else {
            return ledger.fail(|| format!("I4: the client got a malformed method {payload:?}"));
        };
        ledger.check(chan.incoming.is_none(), || format!("I4: {method:?} came inside a message"));
        match method {
            Method::ChannelClose { code, text } => self.exception(number, code, text, ledger),
            Method::Deliver { consumer, tag } => {
                let redelivered = payload.get(4 + 1 + consumer.len() + 8).is_some_and(|bit| *bit == 1);
                let what = What::Deliver { tag, consumer: consumer.to_vec(), redelivered };
                chan.begin(tag, what, ledger);
            }
            Method::GetOk { tag } => match chan.rpc.take() {
                Some(Rpc::Get { no_ack }) => {
                    let redelivered = payload.get(12).is_some_and(|bit| *bit == 1);
                    chan.begin(tag, What::Got { tag, no_ack, redelivered }, ledger);
                }
                rpc => ledger.fail(|| format!("I7: a get-ok came, expected the answer to {rpc:?}")),
            },
            Method::Return => {
                chan.incoming = Some(Incoming { what: What::Return, size: None, body: Bytes::new() })
            }
            Method::Ack { tag, multiple } => chan.confirmed(tag, multiple, ledger),
            Method::Cancel { tag, .. } => {
                ledger.check(false, || format!("I4: the consumer {tag:?} was cancelled"));
            }
            method => self.reply(number, payload, method, ledger),
        }
    }

    fn exception(&mut self, number: u16, code: u16, text: &[u8], ledger: &mut Ledger) {
        let chan = self.channels.remove(&number).expect("it was found");
        if chan.rpc == Some(Rpc::Close) {
            self.crossed.insert(number);
        }
        // The last consumer of its queue has ended on another channel meanwhile. Channels are not in step.
        let auto_delete = |queue: usize| self.queues[queue].auto_delete;
        let is_gone = match &chan.rpc {
            Some(Rpc::Consume { queue, .. }) => auto_delete(*queue),
            Some(Rpc::Reply(MethodId::QUEUE_DECLARE_OK)) => {
                code == 404 && chan.last_queue.is_some_and(auto_delete)
            }
            _ => false,
        };
        let is_slow = self.is_on_slow_node && chan.rpc == Some(Rpc::Tx);
        let is_odd = is_gone || is_slow || self.is_unwelcome && code == 403;
        self.met_oddness |= is_odd;
        let is_wanted = chan.is_doomed || chan.rpc == Some(Rpc::Close) || is_odd;
        let text = String::from_utf8_lossy(text);
        ledger.check(is_wanted, || format!("I4: channel {number} was closed with {code} {text}"));
        self.out.extend(wire::bare(number, MethodId::CHANNEL_CLOSE_OK));
    }

    fn reply(&mut self, number: u16, payload: &[u8], method: Method<'_>, ledger: &mut Ledger) {
        let chan = self.channels.get_mut(&number).expect("it was found");
        let id = MethodId::of(payload);
        match (chan.rpc.take(), method) {
            (Some(Rpc::Open), Method::ChannelOpenOk) => chan.is_open = true,
            (Some(Rpc::Close), Method::ChannelCloseOk) => {
                self.channels.remove(&number);
            }
            (Some(Rpc::Consume { queue, mut asked }), Method::ConsumeOk { tag }) => {
                ledger.check(asked.tag.is_empty() || asked.tag == tag, || {
                    format!("I7: consume-ok for {tag:?}")
                });
                asked.tag = tag.to_vec();
                self.consumers += 1;
                let consumer = Consumer { queue, asked, number: self.consumers, is_cancelled: false };
                let other = chan.consumers.insert(tag.to_vec(), consumer);
                ledger.check(other.is_none(), || format!("I7: tag {tag:?} was given twice"));
            }
            (Some(Rpc::Cancel(asked)), Method::CancelOk { tag }) => {
                ledger.check(asked == tag, || format!("I7: cancel-ok for {tag:?}, expected {asked:?}"));
                chan.consumers.remove(tag);
            }
            (Some(Rpc::Get { .. }), Method::GetEmpty) => {}
            (Some(Rpc::Confirm), Method::Reply(MethodId::CONFIRM_SELECT_OK)) => chan.mode = Mode::Confirm,
            (Some(Rpc::Tx), Method::Reply(MethodId::TX_SELECT_OK)) => chan.mode = Mode::Tx,
            (Some(Rpc::Transaction(is_commit)), Method::Reply(_)) => {
                let expected = if is_commit { MethodId::TX_COMMIT_OK } else { MethodId::TX_ROLLBACK_OK };
                ledger.check(id == expected, || format!("I7: {id:?} came, expected {expected:?}"));
                for message in std::mem::take(&mut chan.transaction) {
                    if is_commit && ledger.of(message).queue.is_some() {
                        ledger.confirm(message);
                    }
                }
            }
            (Some(Rpc::Reply(expected)), _) if expected == id => {
                if id == MethodId::BASIC_RECOVER_OK {
                    let held = std::mem::take(&mut chan.held);
                    held.into_values().for_each(|held| ledger.of(held.message).again = true);
                }
            }
            (rpc, method) => {
                ledger.fail(|| {
                    format!("I7: {method:?} came on channel {number}, expected the answer to {rpc:?}")
                });
            }
        }
    }

    fn content(&mut self, frame: Frame, ledger: &mut Ledger) {
        let chan = self.channels.get_mut(&frame.channel);
        let Some(incoming) = chan.and_then(|chan| chan.incoming.as_mut()) else {
            return ledger.fail(|| format!("I4: the client got {frame:?} outside of a message"));
        };
        match (frame.kind, incoming.size) {
            (Kind::Header, None) => incoming.size = Some(wire::body_size(&frame.payload)),
            (Kind::Body, Some(_)) => incoming.body.extend_from_slice(&frame.payload),
            (kind, _) => return ledger.fail(|| format!("I4: the client got {kind:?} out of turn")),
        }
        if incoming.size == Some(incoming.body.len() as u64) {
            let chan = self.channels.get_mut(&frame.channel).expect("it was found");
            chan.finish(self.has_extra, ledger);
        }
    }
}

impl Chan {
    pub(super) fn may_act(&self) -> bool {
        self.is_open && self.writing.is_empty() && !self.is_doomed && self.rpc != Some(Rpc::Close)
    }

    /// What it has begun is not ended.
    pub fn give_up(&mut self) {
        self.writing.clear();
    }

    /// Nothing can be on its way to it.
    pub(super) fn is_full(&self) -> bool {
        self.rpc.is_none()
            && self.incoming.is_none()
            && self.consumers.iter().all(|(tag, one)| {
                let count = self.held.values().filter(|held| held.consumer.as_ref() == Some(tag)).count();
                !one.is_cancelled && count > 0 && count == one.asked.prefetch as usize
            })
    }

    fn begin(&mut self, tag: u64, what: What, ledger: &mut Ledger) {
        let expected = self.last_tag + 1;
        ledger.check(tag == expected, || format!("I7: delivery tag {tag} came, expected {expected}"));
        self.last_tag = tag;
        self.incoming = Some(Incoming { what, size: None, body: Bytes::new() });
    }

    fn confirmed(&mut self, tag: u64, multiple: bool, ledger: &mut Ledger) {
        let seqs: Vec<u64> = match multiple {
            true => self.outstanding.range(..=tag).map(|(seq, _)| *seq).collect(),
            false => vec![tag],
        };
        ledger.check(!seqs.is_empty(), || format!("I7: confirm {tag} (multiple) covers nothing"));
        for seq in seqs {
            match self.outstanding.remove(&seq) {
                Some(message) => ledger.confirm(message),
                None => ledger.fail(|| format!("I7: {seq} was confirmed, which is not outstanding")),
            }
        }
    }

    fn finish(&mut self, has_extra: bool, ledger: &mut Ledger) {
        let Some(Incoming { what, body, .. }) = self.incoming.take() else { return };
        let Some(message) = wire::message_of(&body) else {
            return ledger.fail(|| "I1: a message has changed on its way to the client".into());
        };
        match what {
            What::Return => {
                ledger.of(message).returned += 1;
                let is_late = ledger.of(message).confirmed;
                ledger.check(!is_late, || format!("I7: message {message} was returned behind its confirm"));
            }
            What::Got { tag, no_ack, redelivered } => {
                ledger.deliver(message, None, redelivered);
                if !no_ack {
                    self.held.insert(tag, Held { message, consumer: None });
                }
            }
            What::Deliver { tag, consumer: name, redelivered } => {
                let Some(consumer) = self.consumers.get(&name) else {
                    return ledger
                        .fail(|| format!("I4: a delivery for consumer {name:?}, which is not there"));
                };
                ledger.deliver(message, Some(consumer.number), redelivered);
                let prefetch = consumer.asked.prefetch as usize;
                if !consumer.asked.no_ack {
                    self.held.insert(tag, Held { message, consumer: Some(name.clone()) });
                }
                let count = self.held.values().filter(|held| held.consumer.as_ref() == Some(&name)).count();
                ledger.check(prefetch == 0 || count <= prefetch || has_extra, || {
                    format!("I4: {count} messages are with a consumer whose prefetch is {prefetch}")
                });
            }
        }
    }
}
