// monday.com: https://developer.monday.com/api-reference/reference/webhooks, and for the life of an app
// https://developer.monday.com/apps/docs/webhooks-1
//
//   name  monday/pulse.create, monday/column_value.update, monday/update.create, monday/pulse.move_into_group, …:
//         the event's type, with the noun first (create_pulse; a pulse is an item of a board);
//         monday/app.install, monday/app_subscription.created, … for an app
//   id    the subscription's id and triggerUuid, the same on each retry; an app's events have none
//   ts    when it was triggered
//   data  the body as it came: event.data.event, or event.data.data for an app
function transform(evt, headers, queryParams, raw) {
  if (evt && evt.event && evt.event.type) {
    return ofBoard(evt);
  }
  if (evt && evt.type && evt.data) {
    return ofApp(evt);
  }
  throw new Error("this is no monday.com event: it has neither an event nor a type and data");
}

function ofBoard(evt) {
  var event = evt.event;
  return {
    id: event.triggerUuid && `monday/${[event.subscriptionId, event.triggerUuid].filter(Boolean).join(".")}`,
    // create_pulse → pulse.create, move_pulse_into_group → pulse.move_into_group
    name: `monday/${event.type.replace(/^([a-z]+)_(.+?)(_into_.+)?$/, "$2.$1$3")}`,
    ts: timeOf(event.triggerTime),
    data: evt,
  };
}

function ofApp(evt) {
  var words = /^(app\w*_subscription)_(\w+)$/.exec(evt.type);
  return {
    name: words ? `monday/${words[1]}.${words[2]}` : `monday/app.${evt.type}`,
    ts: timeOf(evt.data.timestamp),
    data: evt,
  };
}

function timeOf(text) {
  var ts = Date.parse(text);
  return isNaN(ts) ? undefined : ts;
}
