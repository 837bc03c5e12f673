// Mandrill (Mailchimp Transactional): https://mailchimp.com/developer/transactional/docs/webhooks/
//
// A request is a form; its field `mandrill_events` holds up to 1000 events as JSON. Each becomes an event of its own.
//
//   name  mandrill/message.send, mandrill/message.hard_bounce, mandrill/message.open, mandrill/message.inbound, …;
//         mandrill/blacklist.add, mandrill/whitelist.remove, … for changes of those lists
//   id    Mandrill's _id names the message, which is sent, opened and clicked: so it is the event, the message and the
//         time, for a click the link, and who opened or clicked. The lists' changes and inbound mail have no id.
//   ts    when it happened (`ts` is in seconds)
//   data  the event as it came: event.data.msg is the message
function transform(evt, headers, queryParams, raw) {
  if (!evt || !Array.isArray(evt.mandrill_events)) {
    throw new Error("this is no Mandrill batch: the form has no field mandrill_events");
  }
  var events = JSON.parse(evt.mandrill_events[0]);
  if (!Array.isArray(events)) {
    throw new Error("this is no Mandrill batch: mandrill_events holds no list");
  }
  // Mandrill tries out a new URL with an empty batch: no events come of it.
  return events.map(eventOf);
}

function eventOf(item) {
  if (!item || !(item.event || (item.type && item.action))) {
    throw new Error("this is no Mandrill event: it has neither an event nor a type and an action");
  }
  return {
    id: idOf(item),
    name: item.event ? `mandrill/message.${item.event}` : `mandrill/${item.type}.${item.action}`,
    ts: item.ts ? item.ts * 1000 : undefined,
    data: item,
  };
}

function idOf(item) {
  if (!item.event || !item._id) {
    return undefined;
  }
  return ["mandrill/" + item._id, item.event, item.ts, item.url, item.ip].filter(Boolean).join(".");
}
