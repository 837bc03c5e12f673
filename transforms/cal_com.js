// Cal.com: https://cal.com/docs/developing/guides/automation/webhooks
//
//   name  cal_com/booking.created, cal_com/booking.cancelled, cal_com/meeting.ended, cal_com/form.submitted, …: the
//         trigger. A ping (the button that tests a webhook) makes no event.
//   id    Cal.com gives none: the trigger, the booking's uid and the time
//   ts    when Cal.com made the event, where it says so (a meeting that starts or ends does not)
//   data  Cal.com's `payload`, without the video call's password; for a meeting that starts or ends the body, which is
//         the booking itself
// A webhook with a payload template of its own sends something else: write another transform for it.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.triggerEvent) {
    throw new Error("this is no Cal.com event: it has no triggerEvent");
  }
  if (evt.triggerEvent === "PING") {
    return null;
  }
  var data = evt.payload || evt;
  var uid = data.uid || data.bookingUid;
  // Without a payload, createdAt is the time of the booking, not of the event.
  var ts = evt.payload ? Date.parse(evt.createdAt) : NaN;
  return {
    id: uid && ["cal_com/" + evt.triggerEvent, uid, evt.createdAt].filter(Boolean).join("."),
    name: `cal_com/${nameOf(evt.triggerEvent)}`,
    ts: isNaN(ts) ? undefined : ts,
    data: data.videoCallData ? Object.assign({}, data, { videoCallData: withoutPassword(data.videoCallData) }) : data,
  };
}

function withoutPassword(call) {
  return Object.assign({}, call, { password: undefined });
}

// BOOKING_NO_SHOW_UPDATED → booking.no_show_updated; AFTER_HOSTS_CAL_VIDEO_NO_SHOW keeps its underscores.
function nameOf(trigger) {
  return trigger.toLowerCase().replace(/^(booking|meeting|recording|form|ooo)_/, "$1.");
}
