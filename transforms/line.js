// LINE: https://developers.line.biz/en/reference/messaging-api/#webhook-event-objects
//
// One body holds several events, and each becomes one; that of the button Verify holds none.
//
//   name  line/message, line/follow, line/postback, line/member_joined, …: the event's type
//   id    webhookEventId, the same on each redelivery
//   ts    when it happened, which LINE gives in milliseconds
//   data  the event as it came, and `destination`, the bot's user id: event.data.message.text,
//         event.data.source.userId. Its replyToken can be used once, and only for about a minute: push where you
//         may be later.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !Array.isArray(evt.events)) {
    throw new Error("this is no LINE webhook: it has no events");
  }
  return evt.events.map(function (event) {
    if (!event || typeof event.type !== "string") {
      throw new Error("this is no LINE event: it has no type");
    }
    return {
      id: event.webhookEventId && `line/${event.webhookEventId}`,
      name: `line/${snake(event.type)}`,
      ts: event.timestamp ? new Date(event.timestamp).getTime() : undefined,
      data: Object.assign({ destination: evt.destination }, event),
    };
  });
}

function snake(type) {
  return type.replace(/[A-Z]/g, function (letter) {
    return `_${letter.toLowerCase()}`;
  });
}
