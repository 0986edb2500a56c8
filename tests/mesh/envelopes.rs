//! The bytes of a message: can anything be read that was not written, or break the reader?

use coroner::{
    mesh::{
        envelope::{self, Bad, Envelope, HOP_LIMIT, SIZE_LIMIT},
        message::{Body, Life, Message},
    },
    model::agent::{Deed, DeedResult, OrderId},
};
use proptest::prelude::*;

use crate::world::key_of;

fn message(body: Body) -> Message {
    Message { from: "a".into(), from_life: Life(1), to: "b".into(), to_life: Life(2), seq: 3, body }
}

#[test]
fn it_is_read_as_it_was_written() {
    let bodies = [
        Body::Hello { number: 1 },
        Body::Ping { number: u64::MAX },
        Body::Seal { cluster: "orders".into(), epoch: coroner::model::Epoch(7), safety: u64::MAX },
        Body::Answer { id: OrderId { incident: "i".into(), number: 1 }, result: DeedResult::Taken },
    ];
    for body in bodies {
        let bytes = envelope::write(&message(body.clone()), &key_of(0)).unwrap();
        let read = Envelope::read(&bytes).unwrap();
        assert_eq!(read.message, message(body));
        assert!(read.is_signed_by(&key_of(0).public()) && !read.is_signed_by(&key_of(1).public()));
        assert!(read.is_direct());
    }
}

#[test]
fn it_is_passed_on_a_few_times_and_stays_what_it_was() {
    let mut bytes = envelope::write(&message(Body::Hello { number: 1 }), &key_of(0)).unwrap();
    for _ in 0..HOP_LIMIT {
        bytes = Envelope::read(&bytes).unwrap().passed_on().unwrap();
        let read = Envelope::read(&bytes).unwrap();
        assert!(read.is_signed_by(&key_of(0).public()) && !read.is_direct());
    }
    assert_eq!(Envelope::read(&bytes).unwrap().passed_on(), None);
    bytes[4] = HOP_LIMIT + 1;
    assert_eq!(Envelope::read(&bytes).map(|_| ()), Err(Bad::Hops));
}

#[test]
fn what_is_too_large_is_neither_written_nor_read() {
    let long = Deed::Fence { name: "x".repeat(SIZE_LIMIT), preserve: std::time::Duration::ZERO };
    let order = coroner::mesh::message::DeedOrder {
        id: OrderId { incident: "i".into(), number: 1 },
        cluster: "c".into(),
        member: "m".into(),
        epoch: coroner::model::Epoch(1),
        challenge: 1,
        deed: long,
        deadline: std::time::Duration::ZERO,
    };
    assert_eq!(envelope::write(&message(Body::Order(Box::new(order))), &key_of(0)), Err(Bad::TooLarge));
    assert_eq!(Envelope::read(&vec![b'C'; SIZE_LIMIT + 1]).map(|_| ()), Err(Bad::TooLarge));
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_a_mistake(bytes in prop::collection::vec(any::<u8>(), 0..300), with_head: bool) {
        let bytes = if with_head { [b"CRN\x01\x03".as_slice(), &[0; 64], &bytes].concat() } else { bytes };
        let _ = Envelope::read(&bytes);
    }

    #[test]
    fn any_json_is_a_message_or_a_mistake(text in r#"[\[{]("from"|"body"|[0-9]{1,30}|[:,{}\[\]]|null|-1e999){0,40}"#) {
        let _ = Envelope::read(&[b"CRN\x01\x03".as_slice(), &[0; 64], text.as_bytes()].concat());
    }

    /// Whatever is changed but the hops: the signature says so, or it is no message any more.
    #[test]
    fn a_changed_byte_is_noticed(at: prop::sample::Index, change in 1u8..) {
        let mut bytes = envelope::write(&message(Body::Ping { number: 12_345 }), &key_of(0)).unwrap();
        let at = at.index(bytes.len());
        prop_assume!(at != 4);
        bytes[at] ^= change;
        if let Ok(read) = Envelope::read(&bytes) {
            prop_assert!(!read.is_signed_by(&key_of(0).public()));
        }
    }
}
