//! The unit's state, as systemd announces it: a thread listens on the system bus and wakes us; nothing is polled.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use crate::sys::systemd::{Standing, Unit};

/// After the bus was lost, it is tried again this often.
const AGAIN: Duration = Duration::from_secs(1);

/// A unit that is watched. The thread ends when this is dropped.
#[derive(Debug)]
pub struct UnitWatch {
    news: Receiver<Result<Standing, String>>,
    bell: Arc<OwnedFd>,
    _stop: oneshot::Sender<()>,
}

impl UnitWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// No thread or descriptor was to be had.
    pub fn start(unit: &str) -> Result<Self, String> {
        let bell = Arc::new(bell()?);
        let (tell, news) = channel();
        let (stop, mut stopped) = oneshot::channel();
        let (unit, ring) = (unit.to_owned(), Arc::clone(&bell));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("no runtime for the system bus: {e}"))?;
        let listen = async move {
            loop {
                let told = async {
                    let tell_it = |standing| {
                        let is_heard = tell.send(Ok(standing)).is_ok();
                        wake(&ring);
                        is_heard
                    };
                    Unit::open(unit.clone()).await?.watch(tell_it).await
                };
                let lost = tokio::select! {
                    told = told => told,
                    _ = &mut stopped => return,
                };
                let Err(why) = lost else { return };
                if tell.send(Err(why)).is_err() {
                    return;
                }
                wake(&ring);
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    _ = &mut stopped => return,
                }
            }
        };
        std::thread::Builder::new()
            .name("coroner-unit".into())
            .spawn(move || runtime.block_on(listen))
            .map_err(|e| format!("no thread for the system bus: {e}"))?;
        Ok(Self { news, bell, _stop: stop })
    }

    /// The newest news, if there is any: how the unit stands, or why the bus cannot be asked.
    #[must_use]
    pub fn read(&self) -> Option<Result<Standing, String>> {
        quiet(&self.bell);
        self.news.try_iter().last()
    }

    /// Waits for the first news.
    #[must_use]
    pub fn first(&self, within: Duration) -> Option<Result<Standing, String>> {
        self.news.recv_timeout(within).ok()
    }
}

impl AsFd for UnitWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// A descriptor with which another thread wakes us.
pub(super) fn bell() -> Result<OwnedFd, String> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| format!("no descriptor to wake by: {e}"))
}

/// Rings it.
pub(super) fn wake(bell: &OwnedFd) {
    // It can fail only when it has been rung 2^64 times and not been heard.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// Silences it.
pub(super) fn quiet(bell: &OwnedFd) {
    let _ = rustix::io::read(bell, &mut [0; 8][..]);
}
