// A program that knows nothing of a mesh. As a server it says its version and who called; as a client it calls each
// address some times and prints the answers. `node any.mjs serve PORT VERSION | call TIMES URL...`
import http from "node:http";

const [, , what, first, ...rest] = process.argv;
if (what === "serve") {
  const [version] = rest;
  http
    .createServer((request, response) => {
      const header = request.headers["x-forwarded-client-cert"] ?? "";
      const peer = header.split(";").find((part) => part.startsWith("URI="))?.slice(4) ?? "";
      response.end(JSON.stringify({ version, peer }));
    })
    .listen(Number(first));
} else {
  for (const url of rest) {
    for (let number = 0; number < Number(first); number++) {
      const answer = await fetch(url);
      const { version, peer } = await answer.json();
      console.log(url, answer.status, version, peer);
    }
  }
}
