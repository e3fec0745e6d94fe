// Runs all cases, or those that are named, and prints what came of each as one line of JSON.
import { cases, connect } from "./cases.mjs";

const { url, keys } = JSON.parse(process.env.LLAMAKIT_E2E);
const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(cases);

for (const name of names) {
  let error = null;
  try {
    await cases[name]({ url, keys, client: connect(url, keys.user) });
  } catch (thrown) {
    error = String(thrown?.stack ?? thrown);
  }
  console.log(JSON.stringify({ name, error }));
}
