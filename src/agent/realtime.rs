//! Real-time priority and locked memory for the thread of leases: a renewal that comes late is an outage.

use rustix::mm::{MlockAllFlags, mlockall};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// SCHED_FIFO at a low priority: before everything that is not real-time, behind the kernel's own threads.
const PRIORITY: u8 = 10;

/// Gives the calling thread SCHED_FIFO. Its memory and the whole process's are locked as they are touched.
///
/// What could not be had is returned in words: the thread works without it, only later under load.
#[must_use]
pub fn claim() -> Vec<String> {
    let mut refused = Vec::new();
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let priority = ThreadPriorityValue::try_from(PRIORITY).map(ThreadPriority::Crossplatform);
    let claimed = match priority {
        Ok(priority) => {
            set_thread_priority_and_policy(thread_native_id(), priority, policy).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_owned()),
    };
    if let Err(error) = claimed {
        refused.push(format!(
            "real-time priority was refused ({error}): the unit needs CAP_SYS_NICE or LimitRTPRIO={PRIORITY}; under \
             load, renewals may come late"
        ));
    }
    // ONFAULT: what was touched stays; the rest of a large binary does not come in for it.
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        refused.push(format!(
            "memory could not be locked ({error}): the unit needs CAP_IPC_LOCK or LimitMEMLOCK=infinity; when memory \
             runs short, renewals may come late"
        ));
    }
    refused
}
