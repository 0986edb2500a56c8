//! Servers that are restarted, killed, paused, cut off, slow, full, set back, or lost after the commit: every call ends in
//! time, `Failed` did not happen, `Unknown` is settled by looking, and all works again once the server does.
//!
//! `CORONER_PAUSE_S=30` pauses servers for that long instead of a moment.

use std::{sync::Arc, time::Duration};

use coroner::{
    registry::{Options, Registry, RegistryError},
    sys::clock::Stopwatch,
};

use crate::{
    conformance::{beat, fresh, join, leader, put},
    databases::{self, Kind, Server, wait_until},
    proxy::{Mode, Proxy},
    sql::{by_hand, patient, registry},
};

const LONG: Duration = Duration::from_secs(600);
/// On top of a time-out: pauses of a loaded machine.
const SLACK: Duration = Duration::from_secs(8);

fn impatient() -> Options {
    Options { timeout: Duration::from_secs(1), ..Options::default() }
}

fn pause() -> Duration {
    let seconds = std::env::var("CORONER_PAUSE_S").ok().and_then(|text| text.parse().ok());
    seconds.map_or(Duration::from_secs(2), Duration::from_secs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_fails_in_every_way() {
    server_fails(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_fails_in_every_way() {
    server_fails(Kind::MariaDb).await;
}

async fn server_fails(kind: Kind) {
    let mut server = Server::start(kind);
    registry(&server.url(), &patient()).prepare().await.unwrap();
    restarted(&mut server).await;
    killed(&mut server).await;
    paused(&server).await;
    cut_off(&server).await;
    stranded(&server).await;
    slow(&server).await;
    broken_after_the_commit(&server).await;
    broken_before_the_commit(&server).await;
    broken_within(&server).await;
    a_client_that_stalls_is_thrown_out(&server).await;
    set_back(&mut server).await;
    server.stop();
    let gone = registry(&server.url(), &impatient()).get("x").await.unwrap_err();
    assert!(matches!(&gone, RegistryError::Failed(why) if why.contains("is it running")), "{gone:?}");
}

/// The call must come back in time, with an error; which one, and what it says.
async fn fails_in_time<T: std::fmt::Debug>(
    options: &Options,
    call: impl Future<Output = Result<T, RegistryError>>,
) -> RegistryError {
    let since = Stopwatch::start();
    let error = call.await.expect_err("the server cannot have done that");
    assert!(since.elapsed() < options.timeout + SLACK, "it took {:?}", since.elapsed());
    assert!(!error.to_string().contains(databases::PASSWORD), "{error}");
    error
}

async fn works_again(registry: &Arc<dyn Registry>) {
    let key = fresh("again");
    wait_until("it works again", || {
        let (registry, key) = (registry.clone(), key.clone());
        async move {
            match registry.put(&[put(&key, 0, "1")], None).await {
                Ok(()) | Err(RegistryError::Conflict { .. }) => true,
                Err(_) => false,
            }
        }
    })
    .await;
}

async fn restarted(server: &mut Server) {
    let (registry, key) = (registry(&server.url(), &patient()), fresh("restart"));
    registry.put(&[put(&key, 0, "1")], None).await.unwrap();
    let first = join(&*registry, &key, "app", LONG).await;
    server.stop();
    server.start_again();
    // At once, by a new connection in place of the one that broke.
    assert_eq!(registry.get(&key).await.unwrap().unwrap().version, 1);
    server.stop();
    server.start_again();
    registry.put(&[put(&key, 1, "2")], None).await.unwrap();
    let second = registry.beat(&beat(&key, "app", Some(first.id), LONG)).await.unwrap();
    assert_eq!(second.id, first.id, "a restart of the server is no lapse");
}

async fn killed(server: &mut Server) {
    let key = fresh("kill");
    let options = impatient();
    let main = registry(&server.url(), &options);
    works_again(&main).await;
    main.put(&[put(&key, 0, "0")], None).await.unwrap();
    let (mut acknowledged, mut unknown) = (0_u64, 0_u64);
    for round in 0..2 {
        let (url, at) = (server.url(), key.clone());
        // Writes on until it fails.
        let writer = tokio::spawn(async move {
            let registry = registry(&url, &impatient());
            let (mut ok, mut lost) = (0_u64, 0_u64);
            while let Ok(Some(now)) = registry.get(&at).await {
                let next = now.text.parse::<u64>().unwrap() + 1;
                match registry.put(&[put(&at, now.version, &next.to_string())], None).await {
                    Ok(()) => ok += 1,
                    Err(RegistryError::Unknown(_)) => lost += 1,
                    Err(_) => {}
                }
            }
            (ok, lost)
        });
        wait_until("something was written", || {
            let (main, at, last) = (main.clone(), key.clone(), acknowledged + unknown + 3);
            async move { main.get(&at).await.is_ok_and(|found| found.is_some_and(|found| found.version > last)) }
        })
        .await;
        server.kill();
        let (ok, lost) = writer.await.unwrap();
        server.start_again();
        (acknowledged, unknown) = (acknowledged + ok, unknown + lost);
        works_again(&main).await;
        let now: u64 = main.get(&key).await.unwrap().unwrap().text.parse().unwrap();
        assert!(now >= acknowledged, "round {round}: {acknowledged} were acknowledged, {now} are there");
        assert!(
            now <= acknowledged + unknown,
            "round {round}: {now} are there of {acknowledged} and {unknown} unknown"
        );
    }
}

async fn paused(server: &Server) {
    let (options, key) = (impatient(), fresh("pause"));
    let registry = registry(&server.url(), &options);
    works_again(&registry).await;
    server.pause();
    let since = Stopwatch::start();
    let mut last = None;
    while since.elapsed() < pause() {
        let error = fails_in_time(&options, registry.put(&[put(&key, 0, "1")], None)).await;
        last = Some(error);
    }
    server.resume();
    assert!(matches!(last, Some(RegistryError::Failed(_))), "no COMMIT was sent to it: {last:?}");
    works_again(&registry).await;
    assert_eq!(registry.get(&key).await, Ok(None), "what failed does not come later");
}

async fn cut_off(server: &Server) {
    let (proxy, options) = (Proxy::start(server.port), impatient());
    let (registry, key) = (registry(&server.url_at(proxy.port), &options), fresh("cut"));
    works_again(&registry).await;
    for mode in [Mode::Swallow, Mode::Refuse] {
        proxy.set(mode.clone());
        for _ in 0..2 {
            let error = fails_in_time(&options, registry.put(&[put(&key, 0, "1")], None)).await;
            assert!(matches!(error, RegistryError::Failed(_)), "{mode:?}: {error:?}");
            fails_in_time(&options, registry.get(&key)).await;
        }
        proxy.set(Mode::Pass);
        works_again(&registry).await;
        assert_eq!(registry.get(&key).await, Ok(None), "{mode:?}: what failed does not come later");
    }
}

/// A connection that is open on this side only, as after a firewall forgot it.
async fn stranded(server: &Server) {
    let proxy = Proxy::start(server.port);
    let options = Options { timeout: Duration::from_secs(9), ..Options::default() };
    let (registry, key) = (registry(&server.url_at(proxy.port), &options), fresh("strand"));
    works_again(&registry).await;
    proxy.strand();
    let before = proxy.connections();
    assert_eq!(registry.put(&[put(&key, 0, "1")], None).await, Ok(()), "a new connection is made in time");
    proxy.strand();
    assert_eq!(registry.get(&key).await.unwrap().unwrap().version, 1);
    assert!(proxy.connections() >= before + 2, "by new connections");
}

async fn slow(server: &Server) {
    let proxy = Proxy::start(server.port);
    let (registry, key) = (registry(&server.url_at(proxy.port), &patient()), fresh("slow"));
    proxy.set(Mode::Delay(Duration::from_millis(40)));
    registry.put(&[put(&key, 0, "1")], None).await.unwrap();
    let joined = join(&*registry, &key, "app", LONG).await;
    registry.claim(&leader(&key, joined.id)).await.unwrap();
    registry.put(&[put(&key, 1, "2")], Some(&leader(&key, joined.id))).await.unwrap();
    // Slower than the time-out.
    proxy.set(Mode::Delay(Duration::from_millis(700)));
    let options = impatient();
    let hasty = crate::sql::registry(&server.url_at(proxy.port), &options);
    let error = fails_in_time(&options, hasty.put(&[put(&key, 2, "3")], None)).await;
    assert!(matches!(error, RegistryError::Failed(_)), "{error:?}");
    proxy.set(Mode::Pass);
    assert_eq!(registry.get(&key).await.unwrap().unwrap().version, 2);
}

fn is_unknown<T: std::fmt::Debug>(result: &Result<T, RegistryError>) {
    assert!(matches!(result, Err(RegistryError::Unknown(_))), "{result:?}");
    let said = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    assert!(said.contains("may have happened") && !said.contains("nothing was written"), "{said}");
}

async fn broken_after_the_commit(server: &Server) {
    let proxy = Proxy::start(server.port);
    let (registry, group) = (registry(&server.url_at(proxy.port), &patient()), fresh("after"));
    let key = format!("{group}/x");
    let first = join(&*registry, &group, "app", LONG).await;

    proxy.set(Mode::BreakAfter("COMMIT"));
    is_unknown(&registry.put(&[put(&key, 0, "1")], None).await);
    proxy.set(Mode::Pass);
    assert_eq!(registry.get(&key).await.unwrap().map(|found| found.version), Some(1), "looking tells the truth");

    proxy.set(Mode::BreakAfter("COMMIT"));
    is_unknown(&registry.beat(&beat(&group, "app", Some(first.id), LONG)).await);
    proxy.set(Mode::Pass);
    let again = registry.beat(&beat(&group, "app", Some(first.id), LONG)).await.unwrap();
    assert_eq!(again.id, first.id);
    assert_eq!(again.rows[0].beats, first.rows[0].beats + 2, "the heartbeat without an answer counted");

    proxy.set(Mode::BreakAfter("COMMIT"));
    is_unknown(&registry.claim(&leader(&group, first.id)).await);
    proxy.set(Mode::Pass);
    assert_eq!(registry.claim(&leader(&group, first.id)).await, Ok(()), "to claim again is how to look");
    assert_eq!(proxy.broken(), 3);
}

async fn broken_before_the_commit(server: &Server) {
    let proxy = Proxy::start(server.port);
    let (registry, group) = (registry(&server.url_at(proxy.port), &patient()), fresh("before"));
    let key = format!("{group}/x");
    proxy.set(Mode::BreakBefore("COMMIT"));
    is_unknown(&registry.put(&[put(&key, 0, "1")], None).await);
    is_unknown(&registry.beat(&beat(&group, "app", None, LONG)).await);
    proxy.set(Mode::Pass);
    assert_eq!(registry.get(&key).await, Ok(None), "looking tells the truth");
    assert_eq!(registry.instances(Some(&group), 10).await, Ok(Vec::new()));
    // Ids that were handed out and not committed are no sign of a database that was set back.
    join(&*registry, &group, "app", LONG).await;
}

async fn broken_within(server: &Server) {
    let proxy = Proxy::start(server.port);
    let (registry, key) = (registry(&server.url_at(proxy.port), &patient()), fresh("within"));
    proxy.set(Mode::BreakBefore("INSERT INTO coroner_documents"));
    let result = registry.put(&[put(&key, 0, "1")], None).await;
    assert!(matches!(result, Err(RegistryError::Failed(_))), "{result:?}");
    proxy.set(Mode::Pass);
    assert_eq!(registry.get(&key).await, Ok(None));
}

/// A process that is stopped between two statements holds locks that others need.
async fn a_client_that_stalls_is_thrown_out(server: &Server) {
    let proxy = Proxy::start(server.port);
    let (direct, group) = (registry(&server.url(), &patient()), fresh("stall"));
    let key = format!("{group}/x");
    let first = join(&*direct, &group, "app", LONG).await;
    direct.claim(&leader(&group, first.id)).await.unwrap();
    let stalled = registry(&server.url_at(proxy.port), &impatient());
    proxy.set(Mode::StallBefore("COMMIT"));
    is_unknown(&stalled.put(&[put(&key, 0, "stalled")], Some(&leader(&group, first.id))).await);
    assert_eq!(direct.put(&[put(&key, 0, "1")], Some(&leader(&group, first.id))).await, Ok(()));
    assert_eq!(direct.claim(&leader(&group, first.id)).await, Ok(()));
    assert_eq!(direct.get(&key).await.unwrap().unwrap().text, "1");
}

/// A server that is restored from an older backup hands out ids again and forgets what was written.
async fn set_back(server: &mut Server) {
    let (group, other) = (fresh("set-back"), fresh("other"));
    let key = format!("{group}/x");
    let open = || registry(&server.url(), &patient());
    let (writer, reader, member, newcomer) = (open(), open(), open(), open());
    writer.put(&[put(&key, 0, "1")], None).await.unwrap();
    let first = join(&*member, &group, "app1", LONG).await;
    member.claim(&leader(&group, first.id)).await.unwrap();
    server.backup();
    writer.put(&[put(&key, 1, "2")], None).await.unwrap();
    assert_eq!(reader.get(&key).await.unwrap().unwrap().version, 2);
    let second = join(&*newcomer, &group, "app2", LONG).await;
    for _ in 0..3 {
        member.beat(&beat(&group, "app1", Some(first.id), LONG)).await.unwrap();
    }
    server.restore();

    let noticed = |result: Result<(), RegistryError>| {
        let Err(RegistryError::Failed(why)) = result else { panic!("not noticed: {result:?}") };
        assert!(why.contains("the database was set back"), "{why}");
    };
    // Who wrote, who read, whose heartbeat it was, whose row is gone.
    noticed(writer.put(&[put(&key, 1, "another 2")], None).await);
    noticed(reader.list("").await.map(drop));
    noticed(member.beat(&beat(&group, "app1", Some(first.id), LONG)).await.map(drop));
    noticed(newcomer.beat(&beat(&group, "app2", Some(second.id), LONG)).await.map(drop));
    // For good: also for what would look right.
    noticed(reader.get("no-such-key").await.map(drop));
    noticed(member.claim(&leader(&group, first.id)).await);
    // Who starts anew has seen nothing, and goes on from what there is.
    let fresh_start = open_at(server);
    assert_eq!(fresh_start.get(&key).await.unwrap().unwrap().version, 1);
    join(&*fresh_start, &other, "app", LONG).await;
}

fn open_at(server: &Server) -> Arc<dyn Registry> {
    registry(&server.url(), &patient())
}

/// Writes until the disk is full, and on after there is room again.
async fn full(url: &str, fill: impl Fn(), empty: impl AsyncFn()) {
    let registry = registry(url, &patient());
    registry.prepare().await.unwrap();
    let (key, big) = (fresh("full"), format!("\"{}\"", "x".repeat(200_000)));
    registry.put(&[put(&key, 0, "1")], None).await.unwrap();
    fill();
    let mut said = None;
    for index in 0..200 {
        match registry.put(&[put(&format!("{key}/{index}"), 0, &big)], None).await {
            Ok(()) => {}
            Err(error @ (RegistryError::Failed(_) | RegistryError::Unknown(_))) => {
                said = Some((format!("{key}/{index}"), error));
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    let (refused, error) = said.expect("the disk is full");
    empty().await;
    wait_until("it works again", || {
        let (registry, key) = (registry.clone(), key.clone());
        async move { registry.get(&key).await.is_ok() }
    })
    .await;
    let is_there = registry.get(&refused).await.unwrap().is_some();
    assert!(!is_there || matches!(error, RegistryError::Unknown(_)), "what failed is there: {error:?}");
    works_again(&registry).await;
    println!("a full disk says: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_on_a_full_disk() {
    on_a_full_disk(Kind::Postgres, 96).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_on_a_full_disk() {
    on_a_full_disk(Kind::MariaDb, 100).await;
}

async fn on_a_full_disk(kind: Kind, mebibytes: u32) {
    let server = std::sync::Mutex::new(Server::with_disk(kind, Some(mebibytes)));
    let url = server.lock().unwrap().url();
    let fill = || server.lock().unwrap().fill_disk();
    full(&url, fill, async || {
        // A server that could not write its log ends itself; then it is for the operator to start it again.
        let mut server = server.lock().unwrap();
        server.empty_disk();
        server.kill();
        server.start_again();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Mounted::new(dir.path().join("disk"), "size=4m");
    let url = format!("sqlite:{}", disk.0.join("registry.db").display());
    full(
        &url,
        || databases::fill(&disk.0.join("filler")),
        async || {
            std::fs::remove_file(disk.0.join("filler")).unwrap();
        },
    )
    .await;
}

/// A disk of its own; away when dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(at: std::path::PathBuf, options: &str) -> Self {
        std::fs::create_dir(&at).unwrap();
        let status =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).status();
        assert!(status.is_ok_and(|status| status.success()), "mounting takes root: run the tests as root");
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_held_replaced_read_only_and_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("registry.db"), dir.path().join("copy.db"));
    let url = format!("sqlite:{}", path.display());
    let (options, group) = (impatient(), fresh("file"));
    let key = format!("{group}/x");
    let registry = registry(&url, &options);
    let said = registry.get("x").await.unwrap_err().to_string();
    assert!(said.contains("the tables are not made yet"), "{said}");
    registry.prepare().await.unwrap();
    registry.put(&[put(&key, 0, "1")], None).await.unwrap();

    // Held by somebody else.
    let mut holder = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut holder).await.unwrap();
    let error = fails_in_time(&options, registry.put(&[put(&key, 1, "2")], None)).await;
    assert!(matches!(&error, RegistryError::Failed(why) if why.contains("another process holds it")), "{error:?}");
    assert_eq!(registry.get(&key).await.unwrap().unwrap().version, 1, "reading goes on");
    sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
    registry.put(&[put(&key, 1, "2")], None).await.unwrap();
    drop(holder);

    // An older state in its place: first another file, then one that was set back.
    by_hand(&url, &format!("VACUUM INTO '{}'", copy.display())).await;
    registry.put(&[put(&key, 2, "3")], None).await.unwrap();
    std::fs::rename(&copy, &path).unwrap();
    for stale in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{stale}", path.display()));
    }
    let said = registry.put(&[put(&key, 3, "4")], None).await.unwrap_err().to_string();
    assert!(said.contains("was removed or replaced"), "{said}");
    let said = registry.get(&key).await.unwrap_err().to_string();
    assert!(said.contains("the database was set back"), "{said}");
    let anew = crate::sql::registry(&url, &options);
    assert_eq!(anew.get(&key).await.unwrap().unwrap().version, 2);

    // Not there at all.
    let nowhere = crate::sql::registry(&format!("sqlite:{}/no/such/file", dir.path().display()), &options);
    let said = nowhere.prepare().await.unwrap_err().to_string();
    assert!(said.contains("check that the directory exists"), "{said}");
    let text = dir.path().join("text");
    std::fs::write(&text, "this is no database, though it is long enough to be taken for one ".repeat(64)).unwrap();
    let other = crate::sql::registry(&format!("sqlite:{}", text.display()), &options);
    let said = other.prepare().await.unwrap_err().to_string();
    assert!(said.contains("no SQLite file"), "{said}");
}
