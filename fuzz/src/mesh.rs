//! Any bytes as a datagram of the mesh: read or refused, counted once, and without a valid signature nothing comes of them:
//! no word, no datagram, no record. And the small world that `mesh_signed` lives in as well.

use std::{collections::BTreeMap, net::SocketAddr, sync::LazyLock, time::Duration};

use coroner::{
    lease::arithmetic::wait,
    mesh::{
        envelope::{self, Bad, Envelope, HOP_LIMIT, SIZE_LIMIT},
        keys::{PrivateKey, PublicKey},
        message::Life,
        party::{ClusterSetup, Durable, Input, Output, Party, PeerSetup, Setup},
    },
    model::{
        Time,
        policy::LeasePolicy,
        time::{Moment, Mono},
    },
};

use super::Reached;

/// Everybody, by index: an arbiter, two members' agents, a node's agent.
pub(super) const NAMES: [&str; 4] = ["arbiter", "a", "b", "node-1"];
pub(super) const CLUSTER: &str = "orders";
pub(super) const MY_LIFE: u64 = 77;

fn new_key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed([seed; 32]).expect("a key of any seed")
}

/// Everybody's keys. Made once: that costs as much as signing.
static KEYS: LazyLock<[(PrivateKey, PublicKey); NAMES.len()]> = LazyLock::new(|| {
    std::array::from_fn(|index| {
        let key = own_key(index);
        let public = key.public();
        (key, public)
    })
});

/// A key that nobody's file names.
static STRANGERS_KEY: LazyLock<(PrivateKey, PublicKey)> = LazyLock::new(|| {
    let key = new_key(0xee);
    let public = key.public();
    (key, public)
});

/// A party's private key, for the party itself.
pub(super) fn own_key(index: usize) -> PrivateKey {
    new_key(index as u8 + 1)
}

pub(super) fn key_of(index: usize) -> &'static PrivateKey {
    &KEYS[index].0
}

pub(super) fn public_key_of(index: usize) -> &'static PublicKey {
    &KEYS[index].1
}

pub(super) fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 7401))
}

pub(super) const fn begin() -> Moment {
    Moment { boot: Time(1_000_000_000_000), mono: Mono(900_000_000_000) }
}

pub(super) fn lease() -> LeasePolicy {
    let (length, enforced_within) = (Duration::from_millis(200), Duration::from_millis(12));
    LeasePolicy {
        length,
        renew_every: length / 4,
        enforced_within,
        clock_rate_permille: 100,
        wait: wait(length, enforced_within, 100),
        voters: ["arbiter", "a", "b"].map(Into::into).to_vec(),
    }
}

pub(super) fn setup(me: usize) -> Setup {
    let is_member = |name: &str| matches!(name, "a" | "b");
    let parties = NAMES.iter().enumerate().map(|(index, name)| {
        let peer =
            PeerSetup { public_key: public_key_of(index).0, address: address(index), is_arbiter: *name == "arbiter" };
        ((*name).into(), peer)
    });
    let name = NAMES[me];
    let cluster = ClusterSetup {
        lease: Some(lease()),
        guards: is_member(name).then(|| name.into()),
        observes_for: name.starts_with("node").then(|| name.into()),
        members: [("a".into(), "a".into()), ("b".into(), "b".into())].into(),
        restart_grace: Duration::from_secs(1),
    };
    Setup {
        me: name.into(),
        life: Life(MY_LIFE),
        parties: parties.collect(),
        clusters: BTreeMap::from([(CLUSTER.into(), cluster)]),
        relays: true,
        ping_every: Duration::from_millis(50),
        beat_every: Duration::from_millis(100),
        order_valid_for: Duration::from_millis(500),
    }
}

/// Takes what comes out; every record is durable at once.
fn drain(party: &mut Party, now: Moment) -> Vec<Output> {
    let mut all = Vec::new();
    while let Some(output) = party.poll_output() {
        if let Output::Persist { id, .. } = &output {
            party.handle(now, Input::Persisted(*id));
        }
        all.push(output);
    }
    all
}

pub fn run(input: &[u8]) -> Reached {
    let Some((choice, rest)) = input.split_first() else { return Reached::Refused };
    // With the head of an envelope before it, or as it is.
    let bytes = if choice & 0x80 == 0 {
        let head = [b"CRN\x01".as_slice(), &[choice % (HOP_LIMIT + 2)], &[0; 64]].concat();
        [head.as_slice(), rest].concat()
    } else {
        rest.to_vec()
    };
    let is_read = read(&bytes);
    let me = usize::from(choice >> 4 & 3);
    let now = begin();
    let mut party = Party::new(now, setup(me), own_key(me), Durable::default());
    drain(&mut party, now);
    let (durable, counted) = (party.durable(), count(&party, now));
    party.handle(now, Input::Datagram { bytes, source: address(3) });
    let told = drain(&mut party, now);
    assert!(told.is_empty(), "nobody signed it, and it set off {told:?}");
    assert_eq!(party.durable(), durable, "nobody signed it, and it is remembered");
    let counts = party.health(now).counts;
    assert!(!counts.contains_key("handled") && !counts.contains_key("relayed"), "{counts:?}");
    assert_eq!(count(&party, now), counted + 1, "what became of it is not counted once: {counts:?}");
    Reached::of(is_read)
}

fn count(party: &Party, now: Moment) -> u64 {
    party.health(now).counts.values().sum()
}

/// Whether it is an envelope; if so it can be passed on and written anew.
fn read(bytes: &[u8]) -> bool {
    let read = match Envelope::read(bytes) {
        Ok(read) => read,
        Err(Bad::TooLarge) => {
            assert!(bytes.len() > SIZE_LIMIT);
            return false;
        }
        Err(_) => return false,
    };
    assert!((0..NAMES.len()).all(|index| !read.is_signed_by(public_key_of(index))), "a signature out of nowhere");
    if let Some(passed_on) = read.passed_on() {
        let again = Envelope::read(&passed_on).expect("what is passed on is an envelope");
        assert_eq!(again.hops + 1, read.hops);
        assert_eq!(passed_on.len(), bytes.len(), "what is passed on is as long as what came");
        assert_eq!(passed_on[5..], bytes[5..], "what is passed on is another message");
    }
    match envelope::write(&read.message, &STRANGERS_KEY.0) {
        Ok(written) => {
            assert!(written.len() <= SIZE_LIMIT);
            let again = Envelope::read(&written).expect("what was written can be read");
            assert!(again.is_signed_by(&STRANGERS_KEY.1));
            let (one, other) = (&again.message, &read.message);
            assert_eq!((&one.from, &one.to, one.seq), (&other.from, &other.to, other.seq));
        }
        Err(bad) => assert_eq!(bad, Bad::TooLarge, "what was read cannot be written"),
    }
    true
}
