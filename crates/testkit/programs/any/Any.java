import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;

/**
 * A program that knows nothing of a mesh. As a server it says its version and who called; as a client it calls each
 * address some times and prints the answers. {@code java Any.java serve PORT VERSION | call TIMES URL...}
 */
public class Any {
    static void serve(int port, String version) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/", exchange -> {
            String header = exchange.getRequestHeaders().getFirst("x-forwarded-client-cert");
            String peer = "";
            for (String part : (header == null ? "" : header).split(";")) {
                if (part.startsWith("URI=")) peer = part.substring(4);
            }
            byte[] body = ("{\"version\":\"" + version + "\",\"peer\":\"" + peer + "\"}").getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }

    static String field(String name, String body) {
        var found = Pattern.compile("\"" + name + "\"\\s*:\\s*\"([^\"]*)\"").matcher(body);
        return found.find() ? found.group(1) : "";
    }

    static void call(int times, String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int at = 2; at < arguments.length; at++) {
            for (int number = 0; number < times; number++) {
                var request = HttpRequest.newBuilder(URI.create(arguments[at])).build();
                var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(arguments[at] + " " + answer.statusCode() + " "
                        + field("version", answer.body()) + " " + field("peer", answer.body()));
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("serve")) serve(Integer.parseInt(arguments[1]), arguments[2]);
        else call(Integer.parseInt(arguments[1]), arguments);
    }
}
