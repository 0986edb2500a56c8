//! The interface without its sockets: for whoever brings a transport of its own, and for tests that have no use for a
//! network. What comes in is judged as it is behind a socket; who is at the other end, a token has to say.

use std::sync::Arc;

use axum::{Router, body::Body, extract::Request, response::Response};
use tower::ServiceExt as _;

use super::{CanaryReceipts, Options, Shared, beat::ECHO_LEN, routes, udp::Listener};
use crate::{arbiter::handle::Handle, telemetry::Metrics};

/// All routes and the heartbeats over UDP, of which nobody listens to any.
pub struct Offline {
    router: Router,
    beats: Listener,
}

impl Offline {
    /// Ready to answer. Its replays, sessions and rates are its own.
    #[must_use]
    pub fn new(options: Options, handle: Handle, receipts: Arc<dyn CanaryReceipts>, metrics: Arc<Metrics>) -> Self {
        let shared = Arc::new(Shared::new(options, handle, receipts, metrics));
        Self { router: routes::router(&shared), beats: Listener::new(shared) }
    }

    /// Answers a request as one that came over TCP.
    pub async fn answer(&self, request: Request<Body>) -> Response {
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Takes one datagram and gives the echo, if it deserves one. What it told is handed on before this returns, as far as
    /// the decision's queue has room.
    pub fn take(&mut self, datagram: &[u8]) -> Option<[u8; ECHO_LEN]> {
        self.beats.take_now(datagram)
    }
}
