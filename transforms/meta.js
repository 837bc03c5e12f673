// Meta (Facebook, Instagram, WhatsApp, Messenger): https://developers.facebook.com/docs/graph-api/webhooks
//
// One body holds several entries, and each several changes or messages; every one becomes an event of its own:
//   WhatsApp messages    meta/whatsapp.message.received
//   what became of one   meta/whatsapp.message.sent, .delivered, .read, .failed: its status
//   Messenger, Instagram meta/page.message, meta/page.postback, meta/instagram.message, …: the object and the kind
//   any other change     meta/page.feed, meta/page.leadgen, meta/instagram.comments, …: the object and the field
//   fields without value meta/user.changed
// The GET with hub.challenge never comes here: the relay answers it.
//
//   id    the message's own id, with its status where there is one, the same on each retry; the other kinds have
//         no id, and the relay makes one
//   ts    the message's time, else the entry's (Meta writes seconds in some places and milliseconds in others)
//   data  the message or change as it came, with `object` and `entry_id`: whose page, account or number it is
function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.object !== "string" || !Array.isArray(evt.entry)) {
    throw new Error("this is no Meta notification: it has no object or no entry");
  }
  var events = [];
  evt.entry.forEach(function (entry) {
    if (!entry) {
      throw new Error("this is no Meta notification: an entry is empty");
    }
    events = events.concat(eventsOf(evt.object, entry));
  });
  return events;
}

function eventsOf(object, entry) {
  var about = { object: object, entry_id: entry.id };
  var source = object === "whatsapp_business_account" ? "whatsapp" : object;
  var found = [];
  (entry.changes || []).forEach(function (change) {
    found = found.concat(changed(source, about, entry, change));
  });
  (entry.messaging || []).concat(entry.standby || []).forEach(function (item) {
    found.push(messaged(source, about, entry, item));
  });
  if (entry.changed_fields) {
    found.push({ name: `meta/${source}.changed`, ts: millis(entry.time), data: Object.assign(about, entry) });
  }
  return found;
}

function changed(source, about, entry, change) {
  if (!change || typeof change.field !== "string") {
    throw new Error("this is no Meta change: it has no field");
  }
  var value = change.value || {};
  if (source === "whatsapp" && (value.messages || value.statuses)) {
    return whatsapp(about, value);
  }
  return [
    {
      name: `meta/${source}.${change.field}`,
      ts: millis(entry.time),
      data: Object.assign({}, about, change),
    },
  ];
}

function whatsapp(about, value) {
  var shared = Object.assign({}, about, { metadata: value.metadata, contacts: value.contacts });
  var received = (value.messages || []).map(function (message) {
    return {
      id: message.id && `meta/${message.id}`,
      name: "meta/whatsapp.message.received",
      ts: millis(message.timestamp),
      data: Object.assign({}, shared, { message: message }),
    };
  });
  var statuses = (value.statuses || []).map(function (status) {
    return {
      id: status.id && status.status && `meta/${whose(status).join("/")}`,
      name: `meta/whatsapp.message.${status.status || "updated"}`,
      ts: millis(status.timestamp),
      data: Object.assign({}, shared, { status: status }),
    };
  });
  return received.concat(statuses);
}

// In a group each of its members has a status of their own.
function whose(status) {
  return [status.id, status.status, status.recipient_participant_id].filter(Boolean);
}

function messaged(source, about, entry, item) {
  if (!item) {
    throw new Error("this is no Meta message: it is empty");
  }
  // What it is stands in the name of the member beside these: message, postback, reaction, read, …
  var kind = Object.keys(item).filter(function (key) {
    return ["sender", "recipient", "timestamp"].indexOf(key) < 0;
  })[0];
  var what = (kind === "message" || kind === "postback") && item[kind] ? item[kind] : {};
  var deleted = what.is_deleted ? "/deleted" : ""; // Instagram tells with the mid of the message that is gone
  return {
    id: what.mid ? `meta/${kind}/${what.mid}${deleted}` : undefined,
    name: `meta/${source}.${kind || "messaging"}`,
    ts: millis(item.timestamp || entry.time),
    data: Object.assign({}, about, item),
  };
}

function millis(time) {
  var number = Number(time); // WhatsApp writes it as text
  if (!number) {
    return undefined;
  }
  return number < 100000000000 ? number * 1000 : number;
}
