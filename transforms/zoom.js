// Zoom: https://developers.zoom.us/docs/api/webhooks/
//
//   name  zoom/meeting.started, zoom/meeting.participant_joined, zoom/recording.completed, …: the event
//   id    made of the event, its meeting (or other object), the person in it and the time, the same on each
//         retry: Zoom sends no id
//   ts    event_ts, when it happened, which Zoom gives in milliseconds
//   data  the body as it came: event.data.payload.object is the meeting, webinar, recording, …; without the
//         download_token, passcodes and start URLs, which let anybody in. Fetch a recording with your own token.
// The request endpoint.url_validation never comes here: the relay answers it.
var SECRETS = ["download_token", "download_access_token", "password", "recording_play_passcode", "start_url"];

function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.event !== "string" || !evt.payload) {
    throw new Error("this is no Zoom event: it has no event or no payload");
  }
  return {
    id: idOf(evt),
    name: `zoom/${evt.event.toLowerCase()}`,
    ts: evt.event_ts ? new Date(evt.event_ts).getTime() : undefined,
    data: JSON.parse(JSON.stringify(evt, withoutSecrets)),
  };
}

function idOf(evt) {
  var object = evt.payload.object || {};
  var what = object.uuid || object.id || object.call_id || object.message_id;
  if (!what || !evt.event_ts) {
    return undefined; // better none than one that another event shares
  }
  var inner = object.participant || object.registrant || object.chat_message || object.callee || {};
  var who = inner.participant_uuid || inner.user_id || inner.message_id || inner.id || inner.extension_id;
  return ["zoom", evt.event, what, who, evt.event_ts].filter(Boolean).join("/");
}

function withoutSecrets(key, value) {
  return SECRETS.indexOf(key) < 0 ? value : undefined;
}
