-- What wrk asks for. Arguments: method, path, content type, body file, count, step, and perhaps "keyed".
-- "{n}" in the path runs through 0, step, 2 step, ... (count values); "{id}" in the body is a new id each time,
-- and so is the Idempotency-Key of what is keyed.

local function read(name)
  local file = assert(io.open(name, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function split(text, mark)
  local pieces, from = {}, 1
  while true do
    local first, last = text:find(mark, from, true)
    if not first then break end
    pieces[#pieces + 1] = text:sub(from, first - 1)
    from = last + 1
  end
  pieces[#pieces + 1] = text:sub(from)
  return pieces
end

local function ids()
  math.randomseed(tonumber(tostring({}):sub(8)) % 2147483647)
  local prefix, made = string.format("%010d-%08d-", os.time(), math.random(99999999)), 0
  return function()
    made = made + 1
    return string.format("%s%012d", prefix, made)
  end
end

local function with_ids(pieces, is_keyed)
  local parts, new = {}, ids()
  return function()
    for index, piece in ipairs(pieces) do
      parts[2 * index - 1] = piece
      if index < #pieces then parts[2 * index] = new() end
    end
    if is_keyed then wrk.headers["Idempotency-Key"] = new() end
    return wrk.format(nil, nil, nil, table.concat(parts))
  end
end

local function over_paths(path, count, step)
  local requests, last = {}, 0
  for index = 1, count do
    requests[index] = wrk.format(nil, (path:gsub("{n}", tostring((index - 1) * step))))
  end
  return function()
    last = last % count + 1
    return requests[last]
  end
end

function init(args)
  wrk.method, wrk.path = args[1], args[2]
  if args[4] ~= "" then
    wrk.headers["Content-Type"] = args[3]
    wrk.body = read(args[4])
  end
  local pieces = split(wrk.body or "", "{id}")
  if #pieces > 1 or args[7] == "keyed" then
    request = with_ids(pieces, args[7] == "keyed")
  elseif args[2]:find("{n}", 1, true) then
    request = over_paths(args[2], tonumber(args[5]), tonumber(args[6]))
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\n{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"refused":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
