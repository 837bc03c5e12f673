// Mux: https://www.mux.com/docs/core/listen-for-webhooks
//
//   name  mux/video.asset.ready, mux/video.live_stream.active, mux/video.upload.asset_created, …: the event's type
//   id    the event's id, the same on each retry
//   ts    when the event was made
//   data  the event as it came: event.data.data is the asset, live stream or upload; without stream keys, which let
//         anybody go live
var SECRETS = ["stream_key", "srt_passphrase"];

function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.type !== "string" || !evt.data) {
    throw new Error("this is no Mux event: it has no type or no data");
  }
  var ts = Date.parse(evt.created_at);
  return {
    id: evt.id && `mux/${evt.id}`,
    name: `mux/${evt.type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: JSON.parse(JSON.stringify(evt, withoutSecrets)),
  };
}

function withoutSecrets(key, value) {
  return SECRETS.indexOf(key) < 0 ? value : undefined;
}
