//! A stand-in for a MongoDB replica set: no server of MongoDB's can be had where this is tested.
//!
//! It speaks MongoDB's wire protocol (`OP_MSG`) to the official driver and does what MongoDB's manual says of the
//! commands, update operators and expressions that the registry uses, and nothing else: whatever it does not know is an
//! error. Transactions see a snapshot and conflict at their writes or at the commit. It is written from the manual, not
//! from a server: what it shows is that the registry does what the manual says.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering as Order},
    },
    time::Duration,
};

use mongodb::bson::{Bson, DateTime, Document, doc};

mod expression;

use expression::{Scope, apply, eval, matches, unknown};

type Collections = BTreeMap<String, BTreeMap<Key, Document>>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(i64),
    Text(String),
}

fn key_of(id: &Bson) -> Key {
    match id {
        Bson::Int32(n) => Key::Number(i64::from(*n)),
        Bson::Int64(n) => Key::Number(*n),
        Bson::String(text) => Key::Text(text.clone()),
        other => panic!("no such _id is used: {other}"),
    }
}

struct Transaction {
    snapshot: Collections,
    written: Collections,
    touched: Vec<(String, Key)>,
}

#[derive(Default)]
struct Data {
    collections: Collections,
    transactions: HashMap<(Vec<u8>, i64), Transaction>,
    /// A commit whose answer was lost is asked for again.
    committed: HashSet<(Vec<u8>, i64)>,
}

struct Shared {
    data: Mutex<Data>,
    is_standalone: bool,
    port: u16,
    is_over: AtomicBool,
    is_paused: AtomicBool,
    is_full: AtomicBool,
    clock_offset_ms: AtomicI64,
}

/// Runs until it is dropped.
pub struct StandIn {
    pub port: u16,
    shared: Arc<Shared>,
}

/// An error as a command answers it.
struct Refusal(i32, String, Option<&'static str>);

impl StandIn {
    pub fn start() -> Self {
        Self::with(false)
    }

    pub fn standalone() -> Self {
        Self::with(true)
    }

    fn with(is_standalone: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            data: Mutex::default(),
            is_standalone,
            port,
            is_over: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            clock_offset_ms: AtomicI64::new(0),
        });
        listener.set_nonblocking(true).unwrap();
        let accepting = shared.clone();
        std::thread::spawn(move || {
            while !accepting.is_over.load(Order::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let shared = accepting.clone();
                        std::thread::spawn(move || serve(&shared, stream));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { port, shared }
    }

    pub fn url(&self) -> String {
        let set = if self.shared.is_standalone { "" } else { "?replicaSet=rs0" };
        format!("mongodb://127.0.0.1:{}/{set}", self.port)
    }

    /// Through another port.
    pub fn url_at(&self, port: u16) -> String {
        format!("mongodb://127.0.0.1:{port}/?directConnection=true")
    }

    /// Nothing is answered any more, or is again.
    pub fn pause(&self, is: bool) {
        self.shared.is_paused.store(is, Order::Relaxed);
    }

    /// Writes are refused for want of disk.
    pub fn fill(&self, is: bool) {
        self.shared.is_full.store(is, Order::Relaxed);
    }

    /// Its clock is stepped.
    pub fn step_clock(&self, by_ms: i64) {
        self.shared.clock_offset_ms.fetch_add(by_ms, Order::Relaxed);
    }

    /// All that is in it.
    pub fn backup(&self) -> BTreeMap<String, Vec<Document>> {
        let data = self.shared.data.lock().unwrap();
        data.collections.iter().map(|(name, c)| (name.clone(), c.values().cloned().collect())).collect()
    }

    pub fn restore(&self, backup: BTreeMap<String, Vec<Document>>) {
        let keyed =
            |documents: Vec<Document>| documents.into_iter().map(|d| (key_of(d.get("_id").unwrap()), d)).collect();
        let collections = backup.into_iter().map(|(name, documents)| (name, keyed(documents))).collect();
        *self.shared.data.lock().unwrap() = Data { collections, ..Data::default() };
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Order::Relaxed);
    }
}

fn serve(shared: &Shared, mut stream: TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut header = [0_u8; 16];
    while stream.read_exact(&mut header).is_ok() {
        let number = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; usize::try_from(number(0)).unwrap() - 16];
        if stream.read_exact(&mut body).is_err() || number(12) != 2013 {
            return;
        }
        while shared.is_paused.load(Order::Relaxed) && !shared.is_over.load(Order::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if shared.is_over.load(Order::Relaxed) {
            return;
        }
        let answer = match command(shared, &parse(&body)) {
            Ok(mut answer) => {
                answer.insert("ok", 1.0);
                answer
            }
            Err(Refusal(code, text, label)) => {
                let labels: Vec<&str> = label.into_iter().collect();
                doc! { "ok": 0.0, "code": code, "errmsg": text, "codeName": "StandIn", "errorLabels": labels }
            }
        };
        let answer = answer.to_vec().unwrap();
        let length = i32::try_from(16 + 5 + answer.len()).unwrap();
        let mut reply = Vec::new();
        for field in [length, 1, number(4), 2013, 0] {
            reply.extend(field.to_le_bytes());
        }
        reply.push(0);
        reply.extend(answer);
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

/// The command, with the documents that were sent beside it put into it.
fn parse(body: &[u8]) -> Document {
    let mut command = Document::new();
    let mut beside = Vec::new();
    let mut at = 4;
    let document = |at: usize| {
        let length = usize::try_from(i32::from_le_bytes(body[at..at + 4].try_into().unwrap())).unwrap();
        (Document::from_reader(&body[at..at + length]).unwrap(), at + length)
    };
    while at < body.len() {
        match body[at] {
            0 => (command, at) = document(at + 1),
            1 => {
                let size = usize::try_from(i32::from_le_bytes(body[at + 1..at + 5].try_into().unwrap())).unwrap();
                let end = at + 1 + size;
                let name_end = at + 5 + body[at + 5..].iter().position(|b| *b == 0).unwrap();
                let name = String::from_utf8(body[at + 5..name_end].to_vec()).unwrap();
                let mut documents = Vec::new();
                at = name_end + 1;
                while at < end {
                    let (next, after) = document(at);
                    documents.push(Bson::Document(next));
                    at = after;
                }
                beside.push((name, documents));
            }
            kind => panic!("no such section is used: {kind}"),
        }
    }
    for (name, documents) in beside {
        command.insert(name, documents);
    }
    command
}

fn conflict() -> Refusal {
    Refusal(112, "WriteConflict".into(), Some("TransientTransactionError"))
}

fn command(shared: &Shared, command: &Document) -> Result<Document, Refusal> {
    let (name, target) = command.iter().next().unwrap();
    let now = coroner::sys::clock::anchor().unix_ms + shared.clock_offset_ms.load(Order::Relaxed);
    let me = format!("127.0.0.1:{}", shared.port);
    match name.to_lowercase().as_str() {
        "hello" | "ismaster" => {
            let mut answer = doc! {
                "helloOk": true, "ismaster": true, "isWritablePrimary": true, "localTime": DateTime::from_millis(now),
                "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
                "minWireVersion": 0, "maxWireVersion": 21, "logicalSessionTimeoutMinutes": 30, "readOnly": false,
            };
            if !shared.is_standalone {
                answer.extend(doc! { "setName": "rs0", "setVersion": 1, "secondary": false, "primary": &me, "me": &me,
                "hosts": [&me] });
            }
            return Ok(answer);
        }
        "ping" | "endsessions" => return Ok(doc! {}),
        _ => {}
    }
    let mut data = shared.data.lock().unwrap();
    let session = command.get_document("lsid").ok().and_then(|lsid| match lsid.get("id") {
        Some(Bson::Binary(id)) => Some(id.bytes.clone()),
        _ => None,
    });
    let in_transaction = command.get_bool("autocommit").ok() == Some(false);
    let number = command.get_i64("txnNumber").unwrap_or(0);
    let transaction = session.filter(|_| in_transaction).map(|session| (session, number));
    match name.as_str() {
        "commitTransaction" => {
            let key = transaction.unwrap();
            if data.committed.contains(&key) {
                return Ok(doc! {});
            }
            let Some(done) = data.transactions.remove(&key) else {
                return Err(Refusal(251, "NoSuchTransaction".into(), Some("TransientTransactionError")));
            };
            let find = |c: &Collections, (name, key): &(String, Key)| c.get(name).and_then(|c| c.get(key)).cloned();
            if done.touched.iter().any(|at| find(&data.collections, at) != find(&done.snapshot, at)) {
                return Err(conflict());
            }
            for at in &done.touched {
                let collection = data.collections.entry(at.0.clone()).or_default();
                match find(&done.written, at) {
                    Some(document) => collection.insert(at.1.clone(), document),
                    None => collection.remove(&at.1),
                };
            }
            data.committed.insert(key);
            return Ok(doc! {});
        }
        "abortTransaction" => {
            data.transactions.remove(&transaction.unwrap());
            return Ok(doc! {});
        }
        _ => {}
    }
    if transaction.is_some() && shared.is_standalone {
        return Err(Refusal(20, "Transaction numbers are only allowed on a replica set member or mongos".into(), None));
    }
    let collection = target.as_str().unwrap().to_owned();
    if name != "find" && shared.is_full.load(Order::Relaxed) {
        return Err(Refusal(14_031, "OutOfDiskSpace".into(), None));
    }
    let Some(key) = transaction else {
        let mut touched = Vec::new();
        let result = work(&mut data.collections, name, &collection, command, now, &mut touched);
        return result;
    };
    if command.get_bool("startTransaction").ok() == Some(true) {
        let snapshot = data.collections.clone();
        let new = Transaction { written: snapshot.clone(), snapshot, touched: Vec::new() };
        data.transactions.insert(key.clone(), new);
    }
    let Some(mut open) = data.transactions.remove(&key) else {
        return Err(Refusal(251, "NoSuchTransaction".into(), Some("TransientTransactionError")));
    };
    let mut touched = Vec::new();
    // An error ends the transaction, as it does there.
    let answer = work(&mut open.written, name, &collection, command, now, &mut touched)?;
    for at in &touched {
        let of = |c: &Collections| c.get(&at.0).and_then(|c| c.get(&at.1)).cloned();
        if of(&data.collections) != of(&open.snapshot) {
            return Err(conflict());
        }
    }
    open.touched.extend(touched);
    if answer.contains_key("writeErrors") {
        return Ok(answer);
    }
    data.transactions.insert(key, open);
    Ok(answer)
}

fn work(
    collections: &mut Collections,
    name: &str,
    collection: &str,
    command: &Document,
    now: i64,
    touched: &mut Vec<(String, Key)>,
) -> Result<Document, Refusal> {
    let documents = |field: &str| -> Vec<Document> {
        command.get_array(field).unwrap().iter().map(|d| d.as_document().unwrap().clone()).collect()
    };
    if name == "create" {
        if collections.contains_key(collection) {
            return Err(Refusal(48, "NamespaceExists".into(), None));
        }
        collections.insert(collection.to_owned(), BTreeMap::new());
        return Ok(doc! {});
    }
    let store = collections.entry(collection.to_owned()).or_default();
    match name {
        "find" => {
            let empty = Document::new();
            let filter = command.get_document("filter").unwrap_or(&empty);
            let mut found: Vec<Document> = Vec::new();
            for document in store.values() {
                if matches(document, filter)? {
                    found.push(document.clone());
                }
            }
            // In the order of `_id` by nature of the map; that is the only order that is asked for.
            if command.get_document("sort").is_ok_and(|sort| sort.get_i32("_id").ok() == Some(-1)) {
                found.reverse();
            }
            let limit = command.get_i64("limit").or_else(|_| command.get_i32("limit").map(i64::from)).unwrap_or(0);
            if limit > 0 {
                found.truncate(usize::try_from(limit).unwrap());
            }
            Ok(doc! { "cursor": { "id": 0_i64, "ns": format!("db.{collection}"), "firstBatch": found } })
        }
        "insert" => {
            let mut n = 0;
            for document in documents("documents") {
                let key = key_of(document.get("_id").unwrap());
                if store.contains_key(&key) {
                    let error = doc! { "index": n, "code": 11_000, "errmsg": "E11000 duplicate key error" };
                    return Ok(doc! { "n": n, "writeErrors": [error] });
                }
                touched.push((collection.to_owned(), key.clone()));
                store.insert(key, document);
                n += 1;
            }
            Ok(doc! { "n": n })
        }
        "update" => {
            let mut answer = doc! { "n": 0, "nModified": 0 };
            for update in documents("updates") {
                let upsert = update.get_bool("upsert").unwrap_or(false);
                let filter = update.get_document("q").unwrap();
                let done = modify(store, filter, update.get("u").unwrap(), upsert, now)?;
                if let Some((key, _, is_new)) = done {
                    touched.push((collection.to_owned(), key));
                    answer.insert("n", 1);
                    answer.insert("nModified", i32::from(!is_new));
                    if is_new {
                        answer.insert("upserted", vec![doc! { "index": 0, "_id": filter.get("_id").unwrap().clone() }]);
                    }
                }
            }
            Ok(answer)
        }
        "delete" => {
            let mut n = 0;
            for delete in documents("deletes") {
                let filter = delete.get_document("q").unwrap();
                if let Some(key) = first(store, filter)? {
                    touched.push((collection.to_owned(), key.clone()));
                    store.remove(&key);
                    n += 1;
                }
            }
            Ok(doc! { "n": n })
        }
        "findAndModify" => {
            assert_eq!(command.get_bool("new").ok(), Some(true), "the registry wants what it made");
            let upsert = command.get_bool("upsert").unwrap_or(false);
            let filter = command.get_document("query").unwrap();
            let done = modify(store, filter, command.get("update").unwrap(), upsert, now)?;
            let value = done.map_or(Bson::Null, |(key, document, _)| {
                touched.push((collection.to_owned(), key));
                Bson::Document(document)
            });
            Ok(doc! { "value": value })
        }
        other => Err(Refusal(59, format!("no such command: '{other}'"), None)),
    }
}

fn first(store: &BTreeMap<Key, Document>, filter: &Document) -> Result<Option<Key>, Refusal> {
    for (key, document) in store {
        if matches(document, filter)? {
            return Ok(Some(key.clone()));
        }
    }
    Ok(None)
}

fn modify(
    store: &mut BTreeMap<Key, Document>,
    filter: &Document,
    update: &Bson,
    upsert: bool,
    now: i64,
) -> Result<Option<(Key, Document, bool)>, Refusal> {
    let found = first(store, filter)?;
    let is_new = found.is_none();
    let (key, before) = match found {
        Some(key) => (key.clone(), store[&key].clone()),
        None if upsert => {
            let id = filter.get("_id").unwrap().clone();
            (key_of(&id), doc! { "_id": id })
        }
        None => return Ok(None),
    };
    let after = match update {
        Bson::Array(stages) => {
            let mut document = before;
            for stage in stages {
                let set = stage.as_document().unwrap().get_document("$set").unwrap();
                let scope = Scope { document: &document, row: None, now };
                let mut next = document.clone();
                for (field, expression) in set {
                    next.insert(field, eval(expression, &scope)?);
                }
                document = next;
            }
            document
        }
        Bson::Document(update) if update.keys().next().is_some_and(|key| key.starts_with('$')) => {
            apply(before, update)?
        }
        Bson::Document(whole) => whole.clone(),
        other => return Err(unknown(&other.to_string())),
    };
    store.insert(key.clone(), after.clone());
    Ok(Some((key, after, is_new)))
}
