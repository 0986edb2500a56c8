//! Incidents that are closed: the engine knows them no more, and their records are changed in the store alone.
//!
//! The record that closes an incident is durable before people hear of its end. Who dies in between would leave them
//! waiting: so it is written down as *untold*, and again once its report was handed over ([`Closed::handed_over`]). An
//! arbiter that starts, or begins to lead, tells what is still untold ([`Closed::tell_what_is_untold`]). Promised is
//! therefore that each end is handed to the reporters at least once; it may be twice.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc},
    time::sleep,
};

use super::driver::Inner;
use crate::{
    model::{Command, Event, Incident, IncidentId, Operator, Record, Time, incident::Acknowledgement},
    store::{Store, StoreError},
};

/// So many of the newest incidents are looked at.
const LOOKED_AT: u32 = 100;
/// A store that cannot be read at the start is read again after this time, and so often.
const READ_AGAIN: Duration = Duration::from_secs(5);
const READS: u32 = 12;

/// Marks what closes an incident, on its way to the store.
pub(super) fn mark_untold(records: &mut [Record]) {
    for record in records {
        if let Record::Incident(incident) = record {
            incident.untold = incident.is_closed();
        }
    }
}

/// The records of closed incidents.
#[derive(Clone)]
pub(super) struct Closed {
    store: Arc<dyn Store>,
    to_driver: mpsc::UnboundedSender<Inner>,
    /// One change at a time: each reads a record, changes it, and writes it back.
    changing: Arc<Mutex<()>>,
}

impl Closed {
    pub(super) fn new(store: Arc<dyn Store>, to_driver: mpsc::UnboundedSender<Inner>) -> Self {
        Self { store, to_driver, changing: Arc::default() }
    }

    /// A person took note of an incident, which may be closed or not. The engine hears of it in any case, to end the
    /// cooldown.
    pub(super) fn acknowledge(&self, now: Time, by: Operator, incident: IncidentId, note: String, reply_to: u64) {
        let this = self.clone();
        tokio::spawn(async move {
            let acknowledged = Acknowledgement { by: by.clone(), at: now, note: note.clone() };
            let (mut id, mut cluster) = (incident.clone(), None);
            match this.change(&incident, |record| record.acknowledged = Some(acknowledged)).await {
                Ok(Some(record)) => {
                    (id, cluster) = (record.id.clone(), Some(record.cluster.clone()));
                    if record.is_closed() {
                        drop(this.to_driver.send(Inner::Closed(Box::new(record))));
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, %incident, "an acknowledgement was not kept"),
            }
            let command = Command::Acknowledge { incident: id, note, cluster };
            drop(this.to_driver.send(Inner::Event(Event::Commanded { by, command, reply_to })));
        });
    }

    /// Its end was told; `spooled`: that the reports of it will survive this process.
    pub(super) fn handed_over(&self, incident: IncidentId, spooled: impl Future<Output = bool> + Send + 'static) {
        let this = self.clone();
        tokio::spawn(async move {
            if !spooled.await {
                return;
            }
            if let Err(error) = this.change(&incident, |record| record.untold = false).await {
                tracing::warn!(%error, %incident, "that an incident's end was told is not written down; it may be told again");
            }
        });
    }

    /// Tells what ended and was told to nobody, as far as is known.
    pub(super) fn tell_what_is_untold(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            for _ in 0..READS {
                match this.untold().await {
                    Ok(untold) => {
                        for incident in untold {
                            tracing::info!(incident = %incident.id, "it ended, and perhaps nobody was told: telling it now");
                            drop(this.to_driver.send(Inner::Closed(Box::new(incident))));
                        }
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "whether an incident's end was told to nobody cannot be read");
                        sleep(READ_AGAIN).await;
                    }
                }
            }
        });
    }

    async fn untold(&self) -> Result<Vec<Incident>, StoreError> {
        let mut untold = Vec::new();
        for brief in self.store.incidents(None, LOOKED_AT).await? {
            if brief.closed_unix_ms.is_some()
                && let Some((incident, _)) = self.store.incident(brief.id.as_str()).await?
                && incident.untold
            {
                untold.push(incident);
            }
        }
        // The newest comes first from the store; people read them as they happened.
        untold.reverse();
        Ok(untold)
    }

    /// Changes the record if it is closed. Answers it as it is then; `None`: there is none of that name.
    async fn change(
        &self,
        id: &IncidentId,
        change: impl FnOnce(&mut Incident) + Send,
    ) -> Result<Option<Incident>, StoreError> {
        let _one = self.changing.lock().await;
        let Some((mut record, _)) = self.store.incident(id.as_str()).await? else { return Ok(None) };
        if record.is_closed() {
            let before = record.clone();
            change(&mut record);
            if record != before {
                self.store.replace_incident(&record.id.clone(), &record).await?;
            }
        }
        Ok(Some(record))
    }
}
