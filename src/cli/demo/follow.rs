//! Whom a node follows: the largest epoch it has heard of, by notice or by asking. A smaller one is refused.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch, time::sleep};

use super::link::Link;
use crate::{
    cli::exit::{Code, Failure},
    model::{Epoch, MemberName},
};

/// Whom to follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Following {
    /// The epoch.
    pub(crate) epoch: Epoch,
    /// The primary's name.
    pub(crate) primary: Option<MemberName>,
    /// Its address as this node reaches it.
    pub(crate) address: Option<String>,
}

/// The one who knows whom to follow. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    /// Addresses as this node reaches the members; a member that is missing is reached as the arbiter says.
    addresses: Arc<BTreeMap<String, String>>,
    now: Arc<watch::Sender<Following>>,
}

impl Follower {
    pub(crate) fn new(addresses: BTreeMap<String, String>) -> Self {
        Self { addresses: Arc::new(addresses), now: Arc::new(watch::Sender::new(Following::default())) }
    }

    /// Takes an offer unless its epoch is smaller than the largest heard of. Answers whether it was taken.
    pub(crate) fn offer(&self, epoch: Epoch, primary: &str, address: Option<&str>) -> bool {
        let address = self.addresses.get(primary).map(String::as_str).or(address).map(str::to_owned);
        let offered = Following { epoch, primary: Some(primary.into()), address };
        let mut taken = true;
        self.now.send_if_modified(|now| {
            // In one epoch there is one primary: whoever names another in the same epoch is wrong. Epoch 0 is a guess.
            let named = now.primary.as_ref().filter(|_| now.epoch == epoch && epoch != Epoch::ZERO);
            let other = named.is_some_and(|p| p.as_str() != primary);
            if epoch < now.epoch || other {
                taken = false;
            } else if *now != offered {
                *now = offered.clone();
                return true;
            }
            false
        });
        taken
    }

    /// Whom to follow, now and whenever it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Following> {
        self.now.subscribe()
    }

    pub(crate) fn current(&self) -> Following {
        self.now.borrow().clone()
    }

    /// The second way: asks the arbiter, again and again.
    pub(crate) async fn ask(self, link: Link) {
        loop {
            let before = self.current().epoch;
            if let Ok(Some(view)) = link.primary(before).await
                && let Some(primary) = &view.primary
            {
                self.offer(view.epoch, primary.as_str(), view.address.as_deref());
            }
            if self.current().epoch == before {
                // No news: a short pause, lest an arbiter that does not hold questions open is asked without end.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The notice of a redirect.
#[derive(Clone, Debug, Deserialize)]
struct Notice {
    primary: String,
    #[serde(default)]
    address: Option<String>,
    epoch: Epoch,
}

/// Listens for notices at `POST /primary`, and shows the node's own state at `GET /state`.
pub(crate) async fn listen<S>(
    at: SocketAddr,
    follower: Follower,
    state: impl Fn() -> S + Clone + Send + Sync + 'static,
) -> Result<(SocketAddr, impl Future<Output = ()>), Failure>
where
    S: Serialize + Send + 'static,
{
    let fail = |e: std::io::Error| Failure::new(Code::Unavailable, format!("Cannot listen at {at}: {e}."));
    let listener = TcpListener::bind(at).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let router = Router::new()
        .route("/primary", post(notice))
        .with_state(follower)
        .route("/state", get(async move || Json(state())));
    Ok((address, async move {
        // It ends only with the process.
        let _ = axum::serve(listener, router).await;
    }))
}

async fn notice(State(follower): State<Follower>, Json(notice): Json<Notice>) -> (StatusCode, Json<Following>) {
    let taken = follower.offer(notice.epoch, &notice.primary, notice.address.as_deref());
    let status = if taken { StatusCode::OK } else { StatusCode::CONFLICT };
    (status, Json(follower.current()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_epoch_and_a_second_primary_of_one_epoch_are_refused() {
        let known = BTreeMap::from([("broker-b".to_owned(), "127.0.0.1:2".to_owned())]);
        let follower = Follower::new(known);
        let mut watch = follower.watch();
        assert!(follower.offer(Epoch(4), "broker-a", Some("127.0.0.1:1")));
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        assert!(follower.offer(Epoch(4), "broker-a", Some("127.0.0.1:1")), "twice is the same as once");
        assert!(!watch.has_changed().unwrap());
        assert!(!follower.offer(Epoch(4), "broker-b", None));
        assert!(follower.offer(Epoch(5), "broker-b", Some("10.0.0.12:6379")));
        assert!(!follower.offer(Epoch(4), "broker-a", Some("127.0.0.1:1")));
        let now = follower.current();
        assert_eq!((now.epoch, now.address.as_deref()), (Epoch(5), Some("127.0.0.1:2")), "its own way to broker-b");
    }

    #[tokio::test]
    async fn notices_are_taken_and_refused_over_http() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let follower = Follower::new(BTreeMap::new());
        let local = "127.0.0.1:0".parse().unwrap();
        let (address, serve) = listen(local, follower.clone(), || "state").await.unwrap();
        tokio::spawn(serve);
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let send = async |epoch: u64| {
            let body = serde_json::json!({
                "cluster": "demo", "primary": "broker-b", "address": "127.0.0.1:2", "epoch": epoch, "incident": "01J",
            });
            client.post(format!("http://{address}/primary")).json(&body).send().await.unwrap().status().as_u16()
        };
        assert_eq!(send(7).await, 200);
        assert_eq!(send(6).await, 409);
        assert_eq!(follower.current().epoch, Epoch(7));
        let garbage = client.post(format!("http://{address}/primary")).body("{").send().await.unwrap().status();
        assert!(garbage.is_client_error());
        let state = client.get(format!("http://{address}/state")).send().await.unwrap().text().await.unwrap();
        assert_eq!(state, "\"state\"");
    }
}
