-- Sends the requests of a pool (bench/requests.py) one after the other, and prints what wrk has counted as JSON.

local pool = {}
local next_one = 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   while true do
      local length = file:read("*n")
      if length == nil then break end
      file:read(1) -- the end of the line
      pool[#pool + 1] = file:read(length)
   end
   file:close()
end

function request()
   next_one = next_one % #pool + 1
   return pool[next_one]
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\nRESULT {"requests": %d, "microseconds": %d, "bytes": %d, "status_errors": %d, "other_errors": %d,' ..
      ' "p50_us": %d, "p99_us": %d, "max_us": %d}\n',
      summary.requests, summary.duration, summary.bytes, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99), latency.max))
end
