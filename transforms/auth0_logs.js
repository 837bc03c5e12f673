// Auth0 log streams: https://auth0.com/docs/customize/log-streams/custom-log-streams
//
// One body holds several log entries, as a list, one object or a line each (the stream's Content Format); each
// becomes an event.
//
//   name  auth0/login.succeeded, auth0/signup.succeeded, …: the type codes in NAMES; auth0/log.sapi,
//         auth0/log.gd_enrollment_complete, … for all others
//         (https://auth0.com/docs/deploy-monitor/logs/log-event-type-codes)
//   id    the entry's log_id, the same on each retry
//   ts    the entry's date
//   data  the entry: event.data.user_id, event.data.client_name, event.data.type
var NAMES = {
  s: "login.succeeded",
  f: "login.failed",
  fp: "login.failed", // a wrong password
  fu: "login.failed", // no such user
  slo: "logout.succeeded",
  ss: "signup.succeeded",
  fs: "signup.failed",
  scp: "password.changed",
  scpr: "password_change.requested",
  sce: "email.changed",
  sv: "email.verified",
  sdu: "user.deleted",
  seacft: "token.issued", // for an authorization code
  seccft: "token.issued", // for client credentials
  sertft: "token.issued", // for a refresh token
  limit_wc: "user.blocked", // too many logins that failed
};

function transform(evt, headers, queryParams, raw) {
  return entries(evt, raw).map(function (entry) {
    var log = entry && (entry.data || entry);
    if (!log || typeof log.type !== "string") {
      throw new Error("this is no Auth0 log entry: it has no type");
    }
    var id = entry.log_id || log.log_id;
    var ts = Date.parse(log.date);
    return {
      id: id && `auth0/${id}`,
      name: `auth0/${NAMES[log.type] || `log.${log.type.toLowerCase()}`}`,
      ts: isNaN(ts) ? undefined : ts,
      data: Object.assign({ log_id: id }, log),
    };
  });
}

function entries(evt, raw) {
  if (evt !== null && typeof evt === "object") {
    return Array.isArray(evt) ? evt : [evt];
  }
  try {
    // JSON Lines, which as a whole is no JSON
    return raw.trim().split("\n").map(function (line) {
      return JSON.parse(line);
    });
  } catch (error) {
    throw new Error("this is no Auth0 log: the body is neither JSON nor JSON Lines");
  }
}
