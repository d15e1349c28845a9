//! A former upstream leg in a task of its own: what waits for it is written, it lingers, and is closed politely.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use model::Time;
use session::Retiree;
use tokio::time::{Instant, Sleep, sleep_until};

use super::side::{Read, Side};
use crate::buffer;
use crate::clock::Clock;
use crate::pool::RetiredCount;

/// A leg on its way out.
pub struct Retire {
    side: Side,
    retiree: Retiree,
    clock: Clock,
    timer: Pin<Box<Sleep>>,
    /// What the timer is set for.
    timed: Option<Time>,
    _counted: RetiredCount,
}

/// Looks after `side` until it is gone. Bytes that it holds were not looked at yet.
pub fn retire(side: Side, retiree: Retiree, clock: Clock, counted: RetiredCount) {
    let timer = Box::pin(sleep_until(Instant::now()));
    let mut retire = Retire { side, retiree, clock, timer, timed: None, _counted: counted };
    let held = retire.side.held().to_vec();
    retire.side.hold(&[]);
    if !held.is_empty() {
        retire.retiree.handle_bytes(clock.now(), &held);
    }
    tokio::spawn(retire);
}

impl Retire {
    fn turn(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<()> {
        loop {
            let now = self.clock.now();
            if let Some(bytes) = self.retiree.poll_transmit()
                && self.side.send(Some(cx), &bytes).is_err()
            {
                return Poll::Ready(());
            }
            if self.side.push(cx).is_err() {
                return Poll::Ready(());
            }
            if self.retiree.wants_fin() && self.side.finish(cx).is_err() {
                return Poll::Ready(());
            }
            if self.retiree.is_finished() {
                return Poll::Ready(());
            }
            if self.side.is_readable() {
                match self.side.poll_read(cx, buffer) {
                    Poll::Ready(Read::Bytes(n)) => {
                        self.retiree.handle_bytes(now, &buffer[..n]);
                        continue;
                    }
                    Poll::Ready(Read::End | Read::Broken) => {
                        self.retiree.handle_end();
                        continue;
                    }
                    Poll::Pending => {}
                }
            }
            match self.retiree.poll_timeout() {
                Some((at, _)) if at <= now => self.retiree.handle_timeout(now),
                Some((at, _)) => {
                    if self.timed != Some(at) {
                        self.timed = Some(at);
                        self.timer.as_mut().reset(Instant::now() + at.since(now));
                    }
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                None => return Poll::Pending,
            }
        }
    }
}

impl Future for Retire {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let retire = self.get_mut();
        buffer::with(|buffer| retire.turn(cx, buffer))
    }
}
