//! What keeps the API from telling us something: whose fault it is, what was found, what to do.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use kube::core::Status;

use crate::rules::Rule;

/// Longest text of the API that is repeated, in characters.
const WORDS_MAX: usize = 300;

/// One kind of request, as RBAC sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// `list`, `watch`, `patch`, `create`.
    pub verb: &'static str,
    /// The API group; empty for the core one.
    pub group: &'static str,
    /// The resource in the plural.
    pub resource: &'static str,
    /// Where.
    pub namespace: String,
    /// All verbs that the gateway needs for this resource, for the rule to add.
    pub verbs: &'static [&'static str],
}

impl Call {
    /// `verb` under a rule that has it.
    pub fn new(verb: &'static str, rule: &Rule, namespace: &str) -> Self {
        debug_assert!(rule.verbs.contains(&verb), "{verb} is not in {rule:?}");
        Self {
            verb,
            group: rule.group,
            resource: rule.resource,
            namespace: namespace.to_owned(),
            verbs: rule.verbs,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, namespace, .. } = self;
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{verb} {resource}{dot}{group} in namespace {namespace}")
    }
}

/// Why something is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nothing says where the API is.
    NotConfigured {
        /// What was looked at.
        cause: String,
    },
    /// The API can not be reached, or the connection broke.
    Unreachable {
        /// What was asked.
        call: Call,
        /// What broke.
        cause: String,
    },
    /// No answer in time.
    TimedOut {
        /// What was asked.
        call: Call,
        /// After how long it was given up.
        after: Duration,
    },
    /// 401: it does not know who we are.
    Unknown {
        /// What was asked.
        call: Call,
    },
    /// 403: we may not ask this.
    Forbidden {
        /// What was asked.
        call: Call,
        /// `system:serviceaccount:NAMESPACE:NAME`, when the answer names somebody.
        user: Option<String>,
    },
    /// Any other refusal.
    Refused {
        /// What was asked.
        call: Call,
        /// HTTP status.
        code: u16,
        /// Its own words.
        message: String,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// An answer that is not what the API's documentation says.
    Malformed {
        /// What was asked.
        call: Call,
        /// What is wrong with it.
        cause: String,
    },
}

impl Trouble {
    /// What `error` says about `call`. No token and no key ever gets into it.
    pub fn new(call: Call, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::refused(call, status),
            kube::Error::Auth(_) => {
                // Its own text may hold what a credential plugin printed.
                let cause = "the credentials could not be obtained (token file or credential plugin)".into();
                Self::Unreachable { call, cause }
            }
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::Malformed { call, cause: chain(error) }
            }
            other => Self::Unreachable { call, cause: chain(other) },
        }
    }

    /// What a Status object says about `call`.
    pub fn refused(call: Call, status: &Status) -> Self {
        match status.code {
            401 => Self::Unknown { call },
            403 => Self::Forbidden { user: quoted_user(&status.message), call },
            code => {
                let details = status.details.as_ref();
                let seconds = details.map_or(0, |details| details.retry_after_seconds);
                let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
                let words = if status.message.is_empty() { &status.reason } else { &status.message };
                Self::Refused { call, code, message: shortened(words), retry_after }
            }
        }
    }

    /// True when it does not go away by itself: somebody has to change something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::NotConfigured { .. } | Self::Unknown { .. } | Self::Forbidden { .. } => true,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Malformed { .. } => false,
            // A group or a resource that this server does not have.
            Self::Refused { code, .. } => *code == 404,
        }
    }

    /// How long the API asks us to wait before the next request.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::NotConfigured { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Unknown { .. }
            | Self::Forbidden { .. }
            | Self::Malformed { .. } => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured { cause } => write!(
                f,
                "nothing says where the Kubernetes API is: run in a Pod with a service account token, or set KUBECONFIG \
                 ({cause})"
            ),
            Self::Unreachable { call, cause } => {
                write!(f, "{call}: the Kubernetes API can not be reached: {cause}")
            }
            Self::TimedOut { call, after } => {
                write!(f, "{call}: no answer of the Kubernetes API within {:.1} s", after.as_secs_f64())
            }
            Self::Unknown { call } => write!(
                f,
                "{call}: the Kubernetes API does not know who we are (401): is the service account's token mounted and \
                 valid?"
            ),
            Self::Forbidden { call, user } => forbidden(f, call, user.as_deref()),
            Self::Refused { call, code, message, .. } => {
                write!(f, "{call}: the Kubernetes API answered {code}: {message}")
            }
            Self::Malformed { call, cause } => {
                write!(
                    f,
                    "{call}: the answer is not what the Kubernetes API answers: {cause}; is a proxy between?"
                )
            }
        }
    }
}

/// `forbidden: system:serviceaccount:a:b may not list pods in namespace c; add to a Role of c bound to it: {...}`.
fn forbidden(f: &mut fmt::Formatter<'_>, call: &Call, user: Option<&str>) -> fmt::Result {
    let who = user.unwrap_or("the gateway's service account");
    let (group, resource, verbs) = (call.group, call.resource, call.verbs.join(", "));
    write!(
        f,
        "forbidden: {who} may not {call}; add to a Role in {} that is bound to it: {{apiGroups: [\"{group}\"], \
         resources: [\"{resource}\"], verbs: [{verbs}]}}",
        call.namespace
    )
}

/// The user in `... User "system:serviceaccount:a:b" cannot list ...`.
fn quoted_user(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("User \"")?;
    let (user, _) = rest.split_once('"')?;
    Some(shortened(user))
}

/// An error with its causes, each said once.
fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    shortened(&text)
}

fn shortened(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            verb: "list",
            group: "discovery.k8s.io",
            resource: "endpointslices",
            namespace: "chat".into(),
            verbs: &["list", "watch"],
        }
    }

    fn status(code: u16, message: &str) -> Status {
        Status { code, message: message.into(), ..Status::default() }
    }

    #[test]
    fn a_refusal_by_rbac_names_the_account_and_the_rule_to_add() {
        let message = r#"endpointslices.discovery.k8s.io is forbidden: User "system:serviceaccount:gw:evenkeel" cannot list"#;
        let trouble = Trouble::refused(call(), &status(403, message));
        assert_eq!(
            trouble.to_string(),
            "forbidden: system:serviceaccount:gw:evenkeel may not list endpointslices.discovery.k8s.io in namespace \
             chat; add to a Role in chat that is bound to it: {apiGroups: [\"discovery.k8s.io\"], resources: \
             [\"endpointslices\"], verbs: [list, watch]}"
        );
        assert!(trouble.is_lasting());
        let nameless = Trouble::refused(call(), &status(403, "no"));
        assert!(nameless.to_string().contains("the gateway's service account may not list"));
    }

    #[test]
    fn a_server_that_wants_to_be_left_alone_is_heard() {
        let mut busy = status(429, "too many requests");
        busy.details = serde_json::from_str(r#"{"retryAfterSeconds": 7}"#).ok();
        let trouble = Trouble::refused(call(), &busy);
        assert_eq!(trouble.retry_after(), Some(Duration::from_secs(7)));
        assert!(!trouble.is_lasting());
    }

    #[test]
    fn what_the_api_says_is_cut_and_stays_on_one_line() {
        let trouble = Trouble::refused(call(), &status(500, &"a\nb".repeat(1000)));
        let text = trouble.to_string();
        assert!(!text.contains('\n') && text.len() < 500, "{text}");
    }

    #[test]
    fn what_a_credential_plugin_printed_is_not_repeated() {
        let secret = kube::client::AuthError::AuthExec("token: hunter2".into());
        let trouble = Trouble::new(call(), &kube::Error::Auth(secret));
        assert!(!format!("{trouble} {trouble:?}").contains("hunter2"));
    }
}
