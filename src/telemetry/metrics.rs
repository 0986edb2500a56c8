//! All metrics in one struct, so that their names can be checked against the alert rules and the dashboard.

use std::{collections::BTreeMap, sync::Mutex};

use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use super::events::Told;
use crate::model::ClusterName;

/// At most this many signal streams are exported; `coroner_signal_series_left_out` counts the rest.
pub const MAX_SIGNAL_SERIES: usize = 20_000;

/// Upper bounds in seconds: from a decision (microseconds) to a slow fence (minutes).
const BUCKETS: [f64; 16] =
    [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

macro_rules! metrics {
    ($($field:ident: $Kind:ty = $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// Every metric that the arbiter exports.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            /// What notices told last, so that a repeated one counts once.
            pub(super) told: Mutex<BTreeMap<ClusterName, Told>>,
            /// Gauges are refreshed and rendered by one scrape at a time.
            scrape: Mutex<()>,
            $(#[doc = $help] pub $field: $Kind,)*
        }

        impl Metrics {
            /// The metrics, all at zero.
            #[must_use]
            pub fn new() -> Self {
                let registry = Registry::new();
                $(let $field = <$Kind as Kind>::make($name, $help, &[$($label),*]);)*
                $(register(&registry, &$field);)*
                let new = Self { registry, told: Mutex::default(), scrape: Mutex::default(), $($field,)* };
                new.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
                // Whoever has metrics has loaded its file.
                new.config_reload_ok.set(1);
                new
            }

            /// The names of all metrics, as queries write them (a histogram without `_bucket`, `_sum`, `_count`).
            #[must_use]
            pub const fn names() -> &'static [&'static str] {
                &[$($name),*]
            }
        }
    };
}

metrics! {
    build_info: IntGaugeVec = "coroner_build_info" ["version"] "The version that runs; always 1.";
    epoch: IntGaugeVec = "coroner_epoch" ["cluster"] "The cluster's epoch.";
    mode: IntGaugeVec = "coroner_mode" ["cluster", "mode"] "The mode in force: 1 for one of shadow, manual, auto.";
    primary: IntGaugeVec = "coroner_primary" ["cluster", "member"] "1 for the member that is primary, 0 for the others.";
    primary_known: IntGaugeVec = "coroner_primary_known" ["cluster"] "Whether it is known who is primary.";
    verdict: IntGaugeVec = "coroner_verdict" ["cluster", "verdict"] "What the primary is believed to be: 1 for one of unknown, alive, suspect, gray, dead.";
    verdict_since: GaugeVec = "coroner_verdict_since_seconds" ["cluster"] "For how long the verdict has been what it is.";
    verdict_changes: IntCounterVec = "coroner_verdict_changes_total" ["cluster", "verdict"] "Changes of the verdict, by the new one.";
    writers: IntGaugeVec = "coroner_writers" ["cluster"] "Members that claim to be primary. 1 is right.";
    two_primaries: IntGaugeVec = "coroner_two_primaries" ["cluster"] "Whether more than one member takes writes or claims to be primary.";
    failover_ready: IntGaugeVec = "coroner_failover_ready" ["cluster"] "Whether a failover could be done now, if one were needed.";
    guard: IntGaugeVec = "coroner_guard" ["cluster", "guard"] "Whether this guard stands against acting now.";
    act_blocked: IntCounterVec = "coroner_act_blocked_total" ["cluster", "guard"] "Times when a rule wanted to act and this guard stood against it.";
    paused: IntGaugeVec = "coroner_paused" ["cluster"] "Whether a person said: hands off.";
    pause_expires: GaugeVec = "coroner_pause_expires_timestamp_seconds" ["cluster"] "When the pause ends by itself; absent without a pause, +Inf without an end.";
    rule_true: IntGaugeVec = "coroner_rule_true" ["cluster", "rule"] "Whether this rule holds.";
    rule_would_act: IntCounterVec = "coroner_rule_would_act_total" ["cluster", "rule", "result"] "Times a rule that only watches, and asks for an act, became true: would_act, or held_back by guards.";
    rule_held_back: IntCounterVec = "coroner_rule_held_back_total" ["cluster", "rule", "guard"] "Times this guard would have held back such a rule.";
    rule_fired: IntCounterVec = "coroner_rule_fired_total" ["cluster", "rule", "shadow"] "Times this rule became true, and whether it may only watch.";
    member_seen: GaugeVec = "coroner_member_seen_age_seconds" ["cluster", "member"] "Age of the newest success of any signal about this member.";
    member_quarantined: IntGaugeVec = "coroner_member_quarantined" ["cluster", "member"] "Whether this member was fenced and is not back yet.";
    member_position: GaugeVec = "coroner_member_position" ["cluster", "member"] "How far this member's log reaches, in its own unit.";
    agent_heard: IntGaugeVec = "coroner_agent_heard" ["cluster", "member"] "Whether the agent beside this member is heard, by whatever path.";
    agent_beat_age: GaugeVec = "coroner_agent_beat_age_seconds" ["cluster", "member"] "Age of the newest word of the agent beside this member; absent before the first.";
    agent_direct: IntGaugeVec = "coroner_agent_direct" ["cluster", "member"] "Whether the agent's newest beat came without a detour; absent before the first.";
    agent_epoch: IntGaugeVec = "coroner_agent_epoch" ["cluster", "member"] "The largest epoch that the agent has seen.";
    agent_evidence: IntGaugeVec = "coroner_agent_evidence" ["cluster", "member", "watch"] "Whether what the agent watches for is so now: the process gone, the disk full.";
    lease_held: IntGaugeVec = "coroner_lease_held" ["cluster", "member"] "Whether the member holds its lease, as its agent told last; absent where there are no leases.";
    lease_left: GaugeVec = "coroner_lease_left_seconds" ["cluster", "member"] "What was left of the lease when the agent told; absent without a lease.";
    lease_least_left: GaugeVec = "coroner_lease_least_left_seconds" ["cluster", "member"] "The least that was left when the lease was renewed, since the agent's start.";
    lease_length: GaugeVec = "coroner_lease_length_seconds" ["cluster"] "How long a grant lasts; absent where there are no leases.";
    lease_renewals: IntGaugeVec = "coroner_lease_renewals" ["cluster", "member", "result"] "Rounds of renewals that were asked and that were granted, since the agent's start.";
    gate: IntGaugeVec = "coroner_gate" ["cluster", "member", "state"] "The gate before the member's port: 1 for one of none, unproven, open, closed.";
    voters: IntGaugeVec = "coroner_voters" ["cluster"] "Voters that may grant a lease; absent where there are no leases.";
    voters_heard: IntGaugeVec = "coroner_voters_heard" ["cluster"] "Those of them that are heard, the arbiter itself among them.";
    fence_usable: IntGaugeVec = "coroner_fence_usable" ["cluster", "member", "level", "method"] "Whether the newest rehearsal shows that this fence would work; absent if that cannot be told.";
    fence_proof_age: GaugeVec = "coroner_fence_proof_age_seconds" ["cluster", "member", "level", "method"] "How long ago a rehearsal last showed that this fence would work; absent if none did since the start.";
    fence_rehearsal_age: GaugeVec = "coroner_fence_rehearsal_age_seconds" ["cluster", "member", "level", "method"] "How long ago this fence was rehearsed last; absent before the first time.";
    fence_check_every: Gauge = "coroner_fence_check_interval_seconds" [] "How often fences are rehearsed. One that was not for five times as long is not counted on.";
    mesh_link_up: IntGaugeVec = "coroner_mesh_link_up" ["from", "to"] "Whether questions that `from` sends to `to` directly are answered directly.";
    mesh_link_one_way: IntGaugeVec = "coroner_mesh_link_one_way" ["from", "to"] "Whether `from` hears `to` directly, and what it sends to it directly is lost.";
    mesh_round_trip: GaugeVec = "coroner_mesh_round_trip_seconds" ["party"] "The newest round trip of a direct question to this party.";
    mesh_messages: IntCounterVec = "coroner_mesh_messages_total" ["result"] "Messages of the mesh, by what became of them: handled, relayed, bad_signature, …";
    node_seen: GaugeVec = "coroner_node_seen_age_seconds" ["cluster", "node"] "Age of this node's newest report.";
    node_last_arrival: GaugeVec = "coroner_node_last_arrival_age_seconds" ["cluster", "node"] "Age of the newest message at this node.";
    nodes_following: IntGaugeVec = "coroner_nodes_following" ["cluster"] "Nodes that say they follow the primary in its epoch.";
    nodes_total: IntGaugeVec = "coroner_nodes" ["cluster"] "Nodes that are configured.";
    signal_up: IntGaugeVec = "coroner_signal_up" ["cluster", "signal", "observer", "subject"] "Whether the newest outcome of this stream is a success; absent before the first.";
    signal_age: GaugeVec = "coroner_signal_age_seconds" ["cluster", "signal", "observer", "subject"] "Age of the newest outcome of this stream; absent before the first.";
    signal_value: GaugeVec = "coroner_signal_value" ["cluster", "signal", "observer", "subject"] "The newest number of this stream, where it has one.";
    signal_series_left_out: IntGauge = "coroner_signal_series_left_out" [] "Streams of signals that are not exported, since there are too many.";
    incident_open: IntGaugeVec = "coroner_incident_open" ["cluster"] "Whether an incident is under way or held.";
    incident_held: IntGaugeVec = "coroner_incident_held" ["cluster"] "Whether an incident waits for a person.";
    incidents_unacknowledged: IntGaugeVec = "coroner_incidents_unacknowledged" ["cluster"] "Failovers that nobody took note of yet.";
    failovers: IntCounterVec = "coroner_failovers_total" ["cluster", "kind", "result"] "Failovers, switchovers and rejoins that ended, by result.";
    step_duration: HistogramVec = "coroner_step_duration_seconds" ["step"] "How long the steps of incidents took.";
    step_results: IntCounterVec = "coroner_step_results_total" ["cluster", "step", "outcome"] "How the steps of incidents ended.";
    estimated_loss: GaugeVec = "coroner_estimated_loss" ["cluster"] "What the newest failover lost at least, in the broker kind's unit; absent if unknown.";
    tilt: IntGauge = "coroner_tilt" [] "Whether the arbiter distrusts its own clock or scheduler just now.";
    tilts: IntCounter = "coroner_tilt_total" [] "Times when the arbiter began to distrust its own clock or scheduler.";
    store_lost: IntGauge = "coroner_store_lost" [] "Whether the store takes no intents.";
    config_reload_ok: IntGauge = "coroner_config_last_reload_success" [] "Whether the newest load of the file succeeded.";
    config_hash: IntGaugeVec = "coroner_config_hash_info" ["hash"] "Hash of the policy in force; always 1.";
    refreshed: IntGauge = "coroner_scrape_refreshed" [] "Whether the decision loop answered the newest scrape; 0: the gauges are old.";
    ingested: IntCounterVec = "coroner_ingest_total" ["via", "kind"] "Pushed reports that were taken.";
    rejected: IntCounterVec = "coroner_ingest_rejected_total" ["via", "reason"] "Pushed reports and requests that were refused.";
    coalesced: IntCounter = "coroner_ingest_coalesced_total" [] "Heartbeats replaced by a newer one of the same sender before the decision saw them.";
    api_requests: IntCounterVec = "coroner_api_requests_total" ["route", "code"] "Requests answered.";
    api_connections: IntGaugeVec = "coroner_api_connections" ["listener"] "Connections that are open.";
    api_refused: IntCounterVec = "coroner_api_connections_refused_total" ["reason"] "Connections closed before a request was served.";
    api_waiters: IntGauge = "coroner_api_waiters" [] "Long polls and event streams that are open.";
    udp_sessions: IntGauge = "coroner_udp_sessions" [] "Sessions of heartbeats over UDP.";
    queue_depth: IntGauge = "coroner_queue_depth" [] "What waits for the decision loop.";
    observations: IntCounterVec = "coroner_observations_total" ["source"] "Observations that reached the decision loop.";
    history_dropped: IntGauge = "coroner_history_dropped" [] "Observations, verdicts and the like that the journal missed since the start, because the disk was behind, full or not to be written.";
    loop_late: Gauge = "coroner_loop_late_seconds" [] "How late the decision loop's newest timer was.";
    decision_latency: Histogram = "coroner_decision_latency_seconds" [] "From taking an event to its effects.";
    persist_duration: Histogram = "coroner_persist_duration_seconds" [] "How long the store took to make records durable.";
    persist_failures: IntCounter = "coroner_persist_failures_total" [] "Records that the store did not take.";
    reports: IntCounterVec = "coroner_reports_total" ["reporter", "result"] "Reports sent, tried again, or given up.";
    reports_spooled: IntGaugeVec = "coroner_reports_spooled" ["reporter"] "Reports that wait to be sent.";
    resident_memory: IntGauge = "process_resident_memory_bytes" [] "Resident memory.";
    open_fds: IntGauge = "process_open_fds" [] "Open file descriptors.";
    cpu_seconds: Gauge = "process_cpu_seconds_total" [] "Processor time used.";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The metrics in Prometheus's text format, as they stand.
    #[must_use]
    pub fn render(&self) -> String {
        self.read_process();
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::warn!(%error, "Some metrics could not be rendered.");
        }
        String::from_utf8(out).unwrap_or_default()
    }

    /// Refreshes with `refresh` and renders, so that no other scrape sees gauges that are half set.
    pub fn scrape(&self, refresh: impl FnOnce(&Self)) -> String {
        let _one = self.scrape.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        refresh(self);
        self.render()
    }

    /// Best effort: without `/proc`, these stay at zero.
    fn read_process(&self) {
        let Ok(me) = procfs::process::Process::myself() else { return };
        if let Ok(stat) = me.stat() {
            let ticks = u32::try_from(procfs::ticks_per_second()).unwrap_or(100).max(1);
            let used = u32::try_from(stat.utime + stat.stime).map_or(f64::MAX, f64::from);
            self.cpu_seconds.set(used / f64::from(ticks));
            self.resident_memory.set((stat.rss * procfs::page_size()).try_into().unwrap_or(i64::MAX));
        }
        if let Ok(count) = me.fd_count() {
            self.open_fds.set(count.try_into().unwrap_or(i64::MAX));
        }
    }
}

/// Clones share their values.
trait Kind: Sized {
    fn make(name: &str, help: &str, labels: &[&str]) -> Self;
}

/// Panics if a name above is illegal or taken: a mistake in this file, which every test that makes a `Metrics` finds.
fn register(registry: &Registry, metric: &(impl Collector + Clone + 'static)) {
    if let Err(error) = registry.register(Box::new(metric.clone())) {
        panic!("a metric of this file cannot be registered: {error}");
    }
}

fn made<T>(result: prometheus::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("a metric of this file cannot be made: {error}"))
}

macro_rules! kinds {
    ($($Plain:ty),*; $($Labelled:ty),*) => {
        $(impl Kind for $Plain {
            fn make(name: &str, help: &str, _: &[&str]) -> Self {
                made(Self::with_opts(Opts::new(name, help)))
            }
        })*
        $(impl Kind for $Labelled {
            fn make(name: &str, help: &str, labels: &[&str]) -> Self {
                made(Self::new(Opts::new(name, help), labels))
            }
        })*
    };
}

kinds!(IntCounter, IntGauge, Gauge; IntCounterVec, IntGaugeVec, GaugeVec);

impl Kind for Histogram {
    fn make(name: &str, help: &str, _: &[&str]) -> Self {
        made(Self::with_opts(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec())))
    }
}

impl Kind for HistogramVec {
    fn make(name: &str, help: &str, labels: &[&str]) -> Self {
        made(Self::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_follow_the_conventions() {
        let mut names = Metrics::names().to_vec();
        let metrics = Metrics::new();
        assert!(metrics.render().contains("coroner_build_info{version=\""));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in names {
            assert!(name.starts_with("coroner_") || name.starts_with("process_"), "{name}");
        }
    }

    #[test]
    fn the_process_itself_is_measured() {
        let metrics = Metrics::new();
        let _ = metrics.render();
        assert!(metrics.resident_memory.get() > 0 && metrics.open_fds.get() > 0);
    }
}
