-- wrk's script: one chat request, and a line of JSON at the end. KEY and MODEL are in the environment.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY")
wrk.body = '{"model": "' .. os.getenv("MODEL") .. '", "max_tokens": 16, "messages": ['
  .. '{"role": "system", "content": "You answer in one sentence."},'
  .. '{"role": "user", "content": "Why is the sky blue?"}]}'

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "rps": %.1f, "errors": %d, "p50": %.4f, "p99": %.4f}\n',
    summary.requests, summary.requests / (summary.duration / 1e6),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
