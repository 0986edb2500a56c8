//! The mesh as people and metrics see it.

use std::time::Duration;

use super::Link;
use crate::{
    config::{Config, Part},
    mesh::party::Health,
    model::{
        PartyName,
        doctor::{LinkView, MeshView, PartyView},
    },
    sys::clock,
};

impl Link {
    /// Who is heard, by which way, and which links carry. `None`: the file has no mesh, or the party's thread has ended.
    pub async fn view(&self, config: &Config) -> Option<MeshView> {
        let mesh = config.mesh.as_ref()?;
        let health = self.party.look(|look| look.party.health(look.now)).await?;
        let me = PartyName::from(config.arbiter.name.as_str());
        let now = clock::now();
        let state = self.state();
        let mut view = MeshView {
            me: config.arbiter.name.clone(),
            counts: health.counts.clone(),
            troubles: state.troubles.clone(),
            ..MeshView::default()
        };
        for (name, party) in mesh.parties.iter().filter(|(name, _)| **name != me) {
            let link = health.links.get(name);
            let heard = state.heard.get(name);
            view.parties.push(PartyView {
                party: name.clone(),
                is_agent: party.part != Part::Arbiter,
                heard: link.and_then(|link| age(link.any_age_ms)),
                beat: heard.map(|heard| now.since(heard.at)),
                is_direct: heard.map(|heard| heard.is_direct),
                bad_signature: link.and_then(|link| age(link.bad_signature_age_ms)),
                differs: link.and_then(|link| age(link.differs_age_ms)),
            });
            view.links.extend(own_link(&health, &me, name));
            // What it told last, while it is told at all.
            let Some(heard) = heard.filter(|heard| now.since(heard.at) < super::HEARD_WITHIN) else { continue };
            let others = mesh.parties.keys().filter(|other| *other != name);
            view.links.extend(others.map(|other| LinkView {
                from: name.clone(),
                to: other.clone(),
                is_up: heard.beat.reaches.contains(other),
                is_one_way: heard.beat.one_way.contains(other),
                round_trip: None,
            }));
        }
        Some(view)
    }
}

fn own_link(health: &Health, me: &PartyName, to: &PartyName) -> Option<LinkView> {
    let link = health.links.get(to)?;
    Some(LinkView {
        from: me.clone(),
        to: to.clone(),
        is_up: link.is_up,
        is_one_way: link.is_one_way,
        round_trip: age(link.round_trip_ms),
    })
}

fn age(ms: Option<f64>) -> Option<Duration> {
    ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok())
}
