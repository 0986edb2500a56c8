#!/usr/bin/env python3
"""A stand-in for a cluster of two masters and three workers, for the tests of Coroner. It is not GraphDB, and says so.

Each master and each worker is a process of its own. Masters coordinate: a write goes to all workers that are in step,
into the master's transaction log, and to its peer. They are controlled over real Jolokia HTTP (read, write, exec, list,
search, version, bulk; POST and GET with the protocol's escapes; errors inside an HTTP 200).

What it copies of the real thing, as its manual and runbook tell it: a read-only master refuses writes; one that is made
writable while it is peered with another that does not answer waits for that one; unpeered, it serves; one that is made
writable compares its workers with its own log, marks those that differ as out of sync, and replaces what they have;
a read-only master that meets a writable peer throws away what of its log the peer does not have.

    standin.py worker NAME PORT DIR
    standin.py master NAME PORT DIR WORKER_URL,... [USER:PASSWORD]

A master reads DIR/cluster.properties (`read-only`) when it starts. It never writes that file.
"""
import base64, hashlib, json, os, sys, threading, time, urllib.parse, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KIND, NAME, PORT, DIR = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
LOCK = threading.RLock()
MBEAN = "ReplicationCluster:name=ClusterInfo/cluster"
NODE = f"http://127.0.0.1:{PORT}/repositories/cluster"


def load(name, default):
    try:
        with open(os.path.join(DIR, name)) as f:
            return json.load(f)
    except FileNotFoundError:
        return default


def save(name, value):
    path = os.path.join(DIR, name)
    with open(path + ".new", "w") as f:
        json.dump(value, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".new", path)


def digest(log):
    return hashlib.sha256("\n".join(log).encode()).hexdigest()


def post(url, value, timeout=1.0):
    request = urllib.request.Request(url, json.dumps(value).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status, self.text = status, text


class Worker:
    """Applies what a master sends, if it has what came before. `drop`: masters whose traffic its host drops."""

    def __init__(self):
        self.log = load("applied.json", [])
        self.drop = []
        self.replaced = 0

    def answer(self, path, body):
        with LOCK:
            if path == "/control":
                self.drop = body.get("drop", self.drop)
                return {}
            if path == "/state":
                return {"digest": digest(self.log), "log": self.log, "replaced": self.replaced}
            if body.get("from") in self.drop:
                return None
            if path == "/look":
                return {"digest": digest(self.log), "length": len(self.log)}
            if path == "/apply":
                if digest(self.log) != body["after"]:
                    return {"ok": False, "digest": digest(self.log)}
                self.log.append(body["entry"])
            elif path == "/replace":
                self.log = body["log"]
                self.replaced += 1
            else:
                raise Refused(404, "no such path")
            save("applied.json", self.log)
            return {"ok": True}


class Master:
    def __init__(self):
        self.workers = sys.argv[5].split(",")
        self.auth = sys.argv[6] if len(sys.argv) > 6 else None
        self.read_only = self.property("read-only") == "true"
        self.log = load("txlog/log.json", [])
        self.peers = load("peers.json", {})
        self.cut = []
        self.waits_for = None
        self.status = {url: "[OFF]" for url in self.workers}
        self.peer_seen = {}
        self.requests = []
        threading.Thread(target=self.tick_for_ever, daemon=True).start()

    def property(self, key):
        with open(os.path.join(DIR, "cluster.properties")) as f:
            for line in f:
                name, _, value = line.partition("=")
                if name.strip() == key:
                    return value.strip()
        return None

    # ---- between masters and workers ----------------------------------------------------------------------------

    def tick_for_ever(self):
        while True:
            try:
                self.tick()
            except Exception as error:  # the next tick tries again
                print(f"tick: {error}", file=sys.stderr, flush=True)
            time.sleep(0.05)

    def tick(self):
        with LOCK:
            log, read_only, peers = list(self.log), self.read_only, dict(self.peers)
        for url in self.workers:
            try:
                seen = post(url + "/look", {"from": NAME})
                with LOCK:
                    in_step = seen["digest"] == digest(self.log)
                    # A reader follows what the writer does; only a writer judges, and mends.
                    if in_step or self.read_only:
                        self.status[url] = "[ON]"
                    elif self.status[url] != "[OUT_OF_SYNC]":
                        self.status[url] = "[OUT_OF_SYNC]"
                    elif not self.waits_for:
                        post(url + "/replace", {"from": NAME, "log": self.log})
            except OSError:
                self.status[url] = "[OFF]"
        for ident, url in peers.items():
            if url in self.cut:
                continue
            try:
                answer = post(url.rsplit("/repositories", 1)[0] + "/peer", {"from": NODE, "log": log, "writes": not read_only})
                if not answer.get("cut"):
                    self.peer_seen[url] = time.monotonic()
                    if self.waits_for == url:
                        self.waits_for = None
            except OSError:
                pass

    def peered(self, body):
        """The peer tells its log. A reader takes what a writer has, and throws away what that one does not have."""
        with LOCK:
            if body["from"] in self.cut or body["from"] not in self.peers.values():
                return {"cut": True}
            self.peer_seen[body["from"]] = time.monotonic()
            if body["writes"] and self.read_only and self.log != body["log"]:
                self.log = body["log"]
                self.keep()
            return {}

    def keep(self):
        os.makedirs(os.path.join(DIR, "txlog"), exist_ok=True)
        save("txlog/log.json", self.log)

    def peer_is_up(self, url):
        return time.monotonic() - self.peer_seen.get(url, -9) < 1.0

    # ---- the service --------------------------------------------------------------------------------------------

    def update(self, text):
        with LOCK:
            if self.read_only:
                raise Refused(500, "The cluster is in read-only mode, no updates are taken by this master")
            if self.waits_for:
                raise Refused(503, f"waiting for the peer {self.waits_for} to recover")
            changes = not text.startswith("DELETE DATA")
            after, applied = digest(self.log), 0
            for url in self.workers:
                try:
                    if changes:
                        applied += post(url + "/apply", {"from": NAME, "after": after, "entry": text})["ok"]
                    else:
                        post(url + "/look", {"from": NAME})
                        applied += 1
                except OSError:
                    self.status[url] = "[OFF]"
            if not applied:
                raise Refused(503, "no worker takes it")
            if changes:
                self.log.append(text)
                self.keep()
                log = list(self.log)
        if changes:
            for url in self.peers.values():
                if url not in self.cut:
                    try:
                        post(url.rsplit("/repositories", 1)[0] + "/peer", {"from": NODE, "log": log, "writes": True})
                    except OSError:
                        pass
        return {"at": len(self.log)}

    # ---- JMX ----------------------------------------------------------------------------------------------------

    def attributes(self):
        states = list(self.status.values())
        status = 0 if all(s == "[ON]" for s in states) else 2 if all(s == "[OFF]" for s in states) else 1
        return {
            "Status": status,
            "NodeStatus": [f"{state} {url}" for url, state in self.status.items()],
            "ReadOnly": self.read_only,
            "IsWritable": not self.read_only and not self.waits_for and status == 0,
            "SyncPeers": [f"{ident} {url}" if ident != url else url for ident, url in self.peers.items()],
            "PeerStatus": [f"{'[ON]' if self.peer_is_up(url) else '[OFF]'} {url}" for url in self.peers.values()],
            "LastTransaction": len(self.log),
            "Requests": len(self.requests),
            "About": {"is": "a stand-in", "of": {"what/ever": 1, "q\"uote!": 2}},
        }

    def set_read_only(self, value):
        was, self.read_only = self.read_only, bool(value)
        if was and not self.read_only:
            down = [url for url in self.peers.values() if not self.peer_is_up(url)]
            self.waits_for = down[0] if down else None
            for url in self.workers:
                try:
                    if post(url + "/look", {"from": NAME})["digest"] != digest(self.log):
                        self.status[url] = "[OUT_OF_SYNC]"
                except OSError:
                    self.status[url] = "[OFF]"

    def execute(self, operation, arguments):
        if operation == "addSyncPeer":
            self.peers[arguments[0]] = arguments[1]
        elif operation == "removeSyncPeer":
            if arguments[0] not in self.peers:
                raise JmxError(500, "java.lang.IllegalArgumentException", f"no peer {arguments[0]}")
            if self.peers.pop(arguments[0]) == self.waits_for:
                self.waits_for = None
        elif operation == "throwTimeout":
            raise JmxError(500, "java.util.concurrent.TimeoutException", "timed out elsewhere")
        else:
            raise JmxError(400, "java.lang.IllegalArgumentException", f"No operation {operation} found on MBean {MBEAN}")
        save("peers.json", self.peers)
        return True

    def jmx(self, request):
        kind = request.get("type")
        self.requests.append(kind)
        if kind == "version":
            return {"agent": "coroner-stand-in", "protocol": "7.2", "info": {"product": "a stand-in, not GraphDB"}}
        if kind == "list":
            tree = {"ReplicationCluster": {"name=ClusterInfo/cluster": {"attr": {k: {} for k in self.attributes()}, "op": {"addSyncPeer": {}, "removeSyncPeer": {}}}}}
            return inner(tree, request.get("path"))
        if kind == "search":
            return [MBEAN] if request["mbean"].startswith("ReplicationCluster") else []
        if request.get("mbean") != MBEAN:
            raise JmxError(404, "javax.management.InstanceNotFoundException", f"{request.get('mbean')}")
        if kind == "exec":
            return self.execute(request["operation"].split("(")[0], request.get("arguments", []))
        name = request.get("attribute")
        attributes = self.attributes()
        if name is not None and name not in attributes:
            raise JmxError(404, "javax.management.AttributeNotFoundException", f"No such attribute: {name}")
        if kind == "read":
            return inner(attributes if name is None else attributes[name], request.get("path"))
        if kind == "write" and name == "ReadOnly":
            self.set_read_only(request["value"])
            return attributes[name]
        raise JmxError(400, "java.lang.IllegalArgumentException", f"{kind} {name} is not supported")

    def jolokia(self, request):
        try:
            with LOCK:
                value = self.jmx(request)
            return {"request": request, "value": value, "timestamp": int(time.time()), "status": 200}
        except JmxError as error:
            return {
                "request": request, "status": error.status, "error_type": error.kind,
                "error": f"{error.kind} : {error}", "stacktrace": f"{error.kind}: {error}\n\tat stand.in(Python)",
            }


class JmxError(Exception):
    def __init__(self, status, kind, text):
        super().__init__(text)
        self.status, self.kind = status, kind


def unescape(path):
    steps, escaped = [""], False
    for c in path:
        if c == "!" and not escaped:
            escaped = True
        elif c == "/" and not escaped:
            steps.append("")
        else:
            escaped = False
            steps[-1] += c
    return steps


def inner(value, path):
    for step in unescape(path) if path else []:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise JmxError(404, "javax.management.AttributeNotFoundException", f"no {step}")
    return value


def from_path(path):
    # Split before decoding: an escaped slash comes encoded.
    parts = unescape("/".join(urllib.parse.unquote(p) for p in path.split("/")))
    kind = parts[0]
    if kind == "read":
        return {"type": kind, "mbean": parts[1], "attribute": parts[2], "path": "/".join(p.replace("!", "!!").replace("/", "!/") for p in parts[3:])}
    if kind == "exec":
        return {"type": kind, "mbean": parts[1], "operation": parts[2], "arguments": parts[3:]}
    if kind == "search":
        return {"type": kind, "mbean": parts[1]}
    return {"type": kind, "path": "/".join(parts[1:])}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, status, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def is_allowed(self):
        if KIND != "master" or not SERVER.auth:
            return True
        return self.headers.get("authorization") == "Basic " + base64.b64encode(SERVER.auth.encode()).decode()

    def do_GET(self):
        if self.path == "/state" and KIND == "worker":
            self.send(200, SERVER.answer("/state", {}))
        elif self.path.startswith("/jolokia/") and KIND == "master":
            if not self.is_allowed():
                self.send(401, b"<html>Unauthorized</html>")
            else:
                self.send(200, SERVER.jolokia(from_path(self.path[len("/jolokia/"):])))
        else:
            self.send(404, b"nothing here")

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        try:
            if KIND == "worker":
                answer = SERVER.answer(self.path, json.loads(text))
                if answer is None:
                    self.close_connection = True
                    return
                self.send(200, answer)
            elif self.path == "/control":
                body = json.loads(text)
                with LOCK:
                    SERVER.cut = body.get("cut", SERVER.cut)
                    for url in SERVER.cut:
                        SERVER.peer_seen.pop(url, None)
                self.send(200, {})
            elif self.path == "/peer":
                self.send(200, SERVER.peered(json.loads(text)))
            elif not self.is_allowed():
                self.send(401, b"<html>Unauthorized</html>")
            elif self.path.endswith("/statements"):
                self.send(200, SERVER.update(text))
            elif self.path.startswith("/jolokia"):
                request = json.loads(text)
                many = isinstance(request, list)
                self.send(200, [SERVER.jolokia(r) for r in request] if many else SERVER.jolokia(request))
            else:
                self.send(404, b"nothing here")
        except Refused as error:
            self.send(error.status, error.text.encode())


class Server(ThreadingHTTPServer):
    allow_reuse_address = True
    request_queue_size = 128


os.makedirs(DIR, exist_ok=True)
SERVER = Worker() if KIND == "worker" else Master()
http = Server(("127.0.0.1", PORT), Handler)
with open(os.path.join(DIR, "pid"), "w") as f:
    f.write(str(os.getpid()))
http.serve_forever()
