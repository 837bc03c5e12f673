// Vonage: https://developer.vonage.com/en/getting-started/concepts/webhooks
//
//   name  vonage/message.received, vonage/message.delivered, vonage/message.read, … (Messages API);
//         vonage/call.ringing, vonage/call.answered, vonage/call.completed, … (Voice API), vonage/call.input for keys
//         and speech, vonage/call.recorded, vonage/call.transferred; vonage/verification.completed, … (Verify API)
//   id    the message's uuid, with the status for a status; the call's uuid with the status and the time
//   ts    the body's timestamp
//   data  the body as it came
function transform(evt, headers, queryParams, raw) {
  if (evt && evt.message_uuid) {
    return eventOf(evt, "message", [evt.message_uuid, evt.status], evt.status || "received");
  }
  if (evt && (evt.conversation_uuid || evt.conversation_uuid_from)) {
    var what = ofCall(evt);
    return eventOf(evt, "call", [evt.recording_uuid || evt.uuid, what, evt.timestamp], what);
  }
  if (evt && evt.request_id && evt.status) {
    var when = evt.triggered_at || evt.finalized_at;
    return eventOf(evt, "verification", [evt.request_id, evt.type, evt.channel, evt.status, when], evt.status);
  }
  throw new Error("this is no Vonage event: it is about no message, call or verification");
}

function ofCall(evt) {
  if (evt.status) {
    return evt.status;
  }
  if (evt.recording_uuid) {
    return "recorded";
  }
  return evt.conversation_uuid_from ? "transferred" : "input";
}

function eventOf(evt, noun, parts, verb) {
  var ts = Date.parse(evt.timestamp || evt.triggered_at || evt.finalized_at);
  return {
    id: parts[0] && `vonage/${parts.filter(Boolean).join(".")}`,
    name: `vonage/${noun}.${verb.toLowerCase().replace(/[^a-z0-9]+/g, "_")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
