// Calls a URL some times with Node's own fetch and prints each answer.
const [url, times] = process.argv.slice(2);
for (let number = 0; number < Number(times); number++) {
  const answer = await fetch(url, { headers: { "x-test-id": `node-${number}` } });
  const body = await answer.json();
  console.log(answer.status, body.version, body.peer);
}
