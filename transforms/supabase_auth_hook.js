// Supabase Auth Hooks: https://supabase.com/docs/guides/auth/auth-hooks
//
// The body does not say which hook it is, but each has a member of its own:
//   supabase/auth.send_email, supabase/auth.send_sms
//   supabase/auth.before_user_created: any hook that tells its name in metadata.name
//   supabase/auth.custom_access_token, supabase/auth.mfa_verification_attempt,
//   supabase/auth.password_verification_attempt: Supabase waits for a verdict in the answer to these, and a relay
//   gives none: use them only where you want to be told and refuse nothing
//
//   id    the header webhook-id, the same on each retry
//   ts    metadata.time; most hooks hold no time
//   data  the body as it came: event.data.user, event.data.email_data.email_action_type; without the one-time codes,
//         which let anybody in for as long as Inngest keeps its events. Take a name out of SECRETS when a function
//         of yours is to send that code to its user.
var SECRETS = ["otp", "token", "token_hash", "token_new", "token_hash_new"];

function transform(evt, headers, queryParams, raw) {
  var hook = hookOf(evt);
  if (!hook) {
    throw new Error("this is no Supabase Auth Hook that is known here");
  }
  var id = headers["Webhook-Id"];
  var ts = evt.metadata ? Date.parse(evt.metadata.time) : NaN;
  return {
    id: id && `supabase/${id}`,
    name: `supabase/auth.${hook}`,
    ts: isNaN(ts) ? undefined : ts,
    data: JSON.parse(JSON.stringify(evt, withoutSecrets)),
  };
}

function hookOf(evt) {
  if (!evt) {
    return undefined;
  }
  if (evt.metadata && typeof evt.metadata.name === "string") {
    return evt.metadata.name.toLowerCase().replace(/-/g, "_");
  }
  if (evt.email_data) {
    return "send_email";
  }
  if (evt.sms) {
    return "send_sms";
  }
  if (evt.claims) {
    return "custom_access_token";
  }
  if (evt.factor_id) {
    return "mfa_verification_attempt";
  }
  return typeof evt.valid === "boolean" && evt.user_id ? "password_verification_attempt" : undefined;
}

function withoutSecrets(key, value) {
  return SECRETS.indexOf(key) < 0 ? value : undefined;
}
