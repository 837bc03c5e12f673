// Twitch EventSub: https://dev.twitch.tv/docs/eventsub/handling-webhook-events/
//
//   name  twitch/stream.online, twitch/channel.follow, …: the subscription's type; twitch/subscription.revoked when
//         Twitch has ended a subscription (event.data.subscription.status says why)
//   id    the header Twitch-Eventsub-Message-Id, the same on each retry; drops come several in one body, each with
//         its own id
//   ts    when the request was sent, from the header Twitch-Eventsub-Message-Timestamp
//   data  the body as it came: event.data.event is what happened, event.data.subscription what was asked for
// The request webhook_callback_verification never comes here: the relay answers it.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.subscription || typeof evt.subscription.type !== "string") {
    throw new Error("this is no Twitch notification: it has no subscription");
  }
  var id = headers["Twitch-Eventsub-Message-Id"];
  var ts = Date.parse(headers["Twitch-Eventsub-Message-Timestamp"]);
  var event = {
    id: id && `twitch/${id}`,
    name: `twitch/${evt.subscription.type.toLowerCase()}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
  if (headers["Twitch-Eventsub-Message-Type"] === "revocation") {
    return Object.assign(event, { name: "twitch/subscription.revoked" });
  }
  // drop.entitlement.grant is sent in batches
  return Array.isArray(evt.events) ? evt.events.map(itemOf(evt, event)) : event;
}

function itemOf(evt, event) {
  return function (item) {
    return Object.assign({}, event, {
      id: item.id && `twitch/${item.id}`,
      data: { subscription: evt.subscription, event: item.data },
    });
  };
}
