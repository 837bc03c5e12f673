// Coinbase Commerce: https://docs.cdp.coinbase.com/commerce/api-arcitecture/webhooks-fields
//
//   name  coinbase_commerce/charge.created, coinbase_commerce/charge.confirmed, …: the type, with a dot for the colon
//   id    the event's id, the same on each retry, while attempt_number and scheduled_for change
//   ts    when the event was made (`created_at`)
//   data  the body as it came: event.data.event.data is the charge
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.event || typeof evt.event.type !== "string" || !evt.event.id) {
    throw new Error("this is no Coinbase Commerce event: it has no event with a type and an id");
  }
  var ts = Date.parse(evt.event.created_at);
  return {
    id: `coinbase_commerce/${evt.event.id}`,
    name: `coinbase_commerce/${evt.event.type.split(":").join(".")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
