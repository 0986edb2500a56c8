import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.lang.management.ManagementFactory;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeoutException;
import javax.management.ObjectName;
import org.jolokia.backend.BackendManager;
import org.jolokia.config.ConfigKey;
import org.jolokia.config.Configuration;
import org.jolokia.http.HttpRequestHandler;
import org.jolokia.restrictor.AllowAllRestrictor;
import org.jolokia.util.LogHandler;
import org.json.simple.JSONAware;

/** A real Jolokia over a small MBean, on a real JVM. Prints its port, and ends with its standard input. */
public class Bean {
    public interface ClusterMBean {
        boolean isReadOnly();
        void setReadOnly(boolean value);
        List<String> getSyncPeers();
        long getLastTransaction();
        Map<String, Integer> getOdd();
        boolean addSyncPeer(String id, String url);
        void removeSyncPeer(String id);
        void refuse();
        void forbid();
        void late() throws TimeoutException;
        String big(int bytes);
    }

    public static class Cluster implements ClusterMBean {
        private volatile boolean readOnly = true;
        private final Map<String, String> peers = Collections.synchronizedMap(new TreeMap<>());

        public Cluster() { peers.put("http://other/repositories/cluster", "http://other/repositories/cluster"); }
        public boolean isReadOnly() { return readOnly; }
        public void setReadOnly(boolean value) { readOnly = value; }
        public List<String> getSyncPeers() { return new ArrayList<>(peers.values()); }
        public long getLastTransaction() { return 42; }
        public Map<String, Integer> getOdd() {
            Map<String, Integer> odd = new TreeMap<>();
            odd.put("a/b", 1);
            odd.put("c!d", 2);
            odd.put("e\"f", 3);
            return odd;
        }
        public boolean addSyncPeer(String id, String url) { peers.put(id, url); return true; }
        public void removeSyncPeer(String id) { peers.remove(id); }
        public void refuse() { throw new IllegalStateException("the cluster is in read-only mode"); }
        public void forbid() { throw new SecurityException("no right to do that"); }
        public void late() throws TimeoutException { throw new TimeoutException("waited for somebody else"); }
        public String big(int bytes) { return "x".repeat(bytes); }
    }

    private static final LogHandler QUIET = new LogHandler() {
        public void debug(String message) {}
        public void info(String message) {}
        public void error(String message, Throwable t) {}
    };

    public static void main(String[] args) throws Exception {
        // A slash in the name, as the real ones have.
        ObjectName name = new ObjectName("ReplicationCluster:name=ClusterInfo/cluster");
        ManagementFactory.getPlatformMBeanServer().registerMBean(
            new javax.management.StandardMBean(new Cluster(), ClusterMBean.class), name);
        Configuration config = new Configuration(ConfigKey.AGENT_ID, "coroner-test");
        BackendManager backend = new BackendManager(config, QUIET, new AllowAllRestrictor());
        HttpRequestHandler handler = new HttpRequestHandler(config, backend, QUIET);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        server.createContext("/jolokia", exchange -> answer(handler, exchange));
        server.start();
        System.out.println(server.getAddress().getPort());
        System.out.flush();
        while (System.in.read() >= 0) {
            // Until whoever started it is gone.
        }
        System.exit(0);
    }

    private static void answer(HttpRequestHandler handler, HttpExchange exchange) {
        JSONAware json;
        try {
            String uri = exchange.getRequestURI().toString();
            // The path as the agent has it: decoded once, as a servlet container does.
            String path = exchange.getRequestURI().getPath().substring("/jolokia".length());
            json = exchange.getRequestMethod().equals("GET")
                ? handler.handleGetRequest(uri, path.replaceFirst("^/+", ""), Collections.emptyMap())
                : handler.handlePostRequest(uri, exchange.getRequestBody(), "UTF-8", Collections.emptyMap());
        } catch (Throwable t) {
            json = handler.handleThrowable(t);
        }
        try {
            byte[] body = json.toJSONString().getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        } catch (java.io.IOException e) {
            exchange.close();
        }
    }
}
