//! Contents of a channel against a plain model: a list of frames is legal as far as it can be read as methods and whole
//! contents, one after the other.

use amqp::{Content, FrameError, MethodId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::cases;
use crate::streams::content_header;

#[derive(Clone, Copy, Debug)]
enum Event {
    Method(MethodId),
    Header { class: u16, body_size: u64 },
    Body(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let plain = select(vec![MethodId::BASIC_ACK, MethodId::CHANNEL_CLOSE, MethodId::BASIC_GET]);
    let with_content = select(vec![
        MethodId::BASIC_PUBLISH,
        MethodId::BASIC_DELIVER,
        MethodId::BASIC_RETURN,
        MethodId::BASIC_GET_OK,
    ]);
    let whole = (with_content.clone(), vec(0_u32..4, 0..4)).prop_map(|(id, mut bodies)| {
        // The last one is not empty: an empty one behind the end would begin nothing.
        while bodies.last() == Some(&0) {
            bodies.pop();
        }
        let body_size = bodies.iter().map(|size| u64::from(*size)).sum();
        let mut events = vec![Event::Method(id), Event::Header { class: 60, body_size }];
        events.extend(bodies.into_iter().map(Event::Body));
        events
    });
    let class = prop_oneof![9 => Just(60_u16), 1 => select(vec![50_u16, 0])];
    let stray = prop_oneof![
        with_content.prop_map(Event::Method),
        (class, 0_u64..4).prop_map(|(class, body_size)| Event::Header { class, body_size }),
        (0_u32..4).prop_map(Event::Body),
    ];
    let part = prop_oneof![
        8 => whole,
        4 => plain.prop_map(|id| vec![Event::Method(id)]),
        1 => stray.prop_map(|event| vec![event]),
    ];
    vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// How many events are legal, and whether a content is open behind them.
fn legal(events: &[Event]) -> (usize, bool) {
    let mut at = 0;
    while let Some(event) = events.get(at) {
        let Event::Method(id) = event else { return (at, false) };
        at += 1;
        if !id.has_content() {
            continue;
        }
        let Some(Event::Header { class: 60, body_size }) = events.get(at) else { return (at, true) };
        at += 1;
        let mut left = *body_size;
        while left > 0 {
            match events.get(at) {
                Some(Event::Body(size)) if u64::from(*size) <= left => left -= u64::from(*size),
                _ => return (at, true),
            }
            at += 1;
        }
    }
    (at, false)
}

fn handle(content: &mut Content, event: Event) -> Result<(), FrameError> {
    match event {
        Event::Method(id) => content.handle_method(id),
        Event::Header { class, body_size } => content.handle_header(&content_header(class, body_size)),
        Event::Body(size) => content.handle_body(size),
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn frames_are_taken_as_far_as_they_are_methods_and_whole_contents(events in events()) {
        let (expected, open) = legal(&events);
        let mut content = Content::new(3);
        let taken = events.iter().take_while(|event| handle(&mut content, **event).is_ok()).count();
        prop_assert_eq!((taken, content.is_open()), (expected, open));
    }
}
