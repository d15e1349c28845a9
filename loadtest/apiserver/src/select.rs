//! Label and field selectors.

use serde_json::Value;

use crate::failure::Failure;

/// Which objects of a collection are meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    labels: Vec<Need>,
    fields: Vec<(String, bool, String)>,
}

/// What a label must be.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Need {
    Present(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

/// Fields that every resource can be selected by.
const FIELDS: [&str; 2] = ["metadata.name", "metadata.namespace"];
/// Fields that some can be.
const FIELDS_OF: [(&str, &str); 10] = [
    ("Pod", "spec.nodeName"),
    ("Pod", "spec.restartPolicy"),
    ("Pod", "status.phase"),
    ("Pod", "status.podIP"),
    ("Event", "involvedObject.kind"),
    ("Event", "involvedObject.name"),
    ("Event", "involvedObject.namespace"),
    ("Event", "involvedObject.uid"),
    ("Event", "reason"),
    ("Event", "type"),
];

impl Selection {
    /// Reads the query values `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 when one cannot be read, or the field is none that objects of this kind are selected by.
    pub fn parse(kind: &str, labels: &str, fields: &str) -> Result<Self, Failure> {
        let labels = split(labels).into_iter().map(need).collect::<Result<_, _>>()?;
        let fields = fields.split(',').map(str::trim).filter(|text| !text.is_empty());
        let fields = fields.map(|text| field(kind, text)).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// Whether an object is meant.
    pub fn takes(&self, object: &Value) -> bool {
        self.labels.iter().all(|need| need.met(object)) && self.fields.iter().all(|f| field_met(f, object))
    }

    /// The one name that is meant, if it is one: a Role may allow just that.
    pub fn name(&self) -> Option<&str> {
        let named = |(field, equal, _): &&(String, bool, String)| field == "metadata.name" && *equal;
        self.fields.iter().find(named).map(|(_, _, name)| name.as_str())
    }
}

impl Need {
    fn met(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        match self {
            Self::Present(key) => label(key).is_some(),
            Self::Absent(key) => label(key).is_none(),
            Self::In(key, values) => label(key).is_some_and(|found| values.iter().any(|v| v == found)),
            Self::NotIn(key, values) => !label(key).is_some_and(|found| values.iter().any(|v| v == found)),
        }
    }
}

/// Splits at commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn need(text: &str) -> Result<Need, Failure> {
    let owned = |key: &str| key.trim().to_owned();
    let refused = || Failure::bad_request(format!("unable to parse requirement: {text:?}"));
    if let Some((key, values)) = text.split_once(" notin ") {
        return Ok(Need::NotIn(owned(key), set(values).ok_or_else(refused)?));
    }
    if let Some((key, values)) = text.split_once(" in ") {
        return Ok(Need::In(owned(key), set(values).ok_or_else(refused)?));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Need::NotIn(owned(key), vec![owned(value)]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Need::In(owned(key), vec![owned(value)]));
    }
    if text.contains(char::is_whitespace) {
        return Err(refused());
    }
    Ok(match text.strip_prefix('!') {
        Some(key) => Need::Absent(owned(key)),
        None => Need::Present(owned(text)),
    })
}

fn set(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

fn field(kind: &str, text: &str) -> Result<(String, bool, String), Failure> {
    let parts = text.split_once("!=").map(|(key, value)| (key, false, value));
    let parts = parts.or_else(|| text.split_once("==").map(|(key, value)| (key, true, value)));
    let parts = parts.or_else(|| text.split_once('=').map(|(key, value)| (key, true, value)));
    let Some((key, equal, value)) = parts else {
        return Err(Failure::bad_request(format!("invalid selector: {text:?}; can't understand {text:?}")));
    };
    let known = FIELDS.contains(&key) || FIELDS_OF.contains(&(kind, key));
    if !known {
        return Err(Failure::bad_request(format!("field label not supported: {key}")));
    }
    Ok((key.to_owned(), equal, value.to_owned()))
}

fn field_met((path, equal, value): &(String, bool, String), object: &Value) -> bool {
    let found = path.split('.').try_fold(object, |at, key| at.get(key));
    (found.and_then(Value::as_str).unwrap_or_default() == value) == *equal
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_selected_by_every_form_of_the_language() {
        let object = json!({"metadata": {"name": "p", "labels": {"app": "web", "tier": "front"}}});
        for (labels, taken) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=api", false),
            ("app!=api", true),
            ("zone!=a", true),
            ("app in (api, web)", true),
            ("app in (api),tier", false),
            ("app notin (api,db), tier", true),
            ("!app", false),
            ("!zone", true),
            ("zone", false),
        ] {
            assert_eq!(Selection::parse("Pod", labels, "").unwrap().takes(&object), taken, "{labels}");
        }
        assert_eq!(Selection::parse("Pod", "app in web", "").unwrap_err().code, 400);
    }

    #[test]
    fn fields_are_selected_by_where_the_resource_has_them() {
        let object = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}});
        let takes = |fields| Selection::parse("Pod", "", fields).unwrap().takes(&object);
        assert!(takes("metadata.name=p") && takes("metadata.name==p,spec.nodeName!=m"));
        assert!(!takes("metadata.name=q") && takes("status.phase="));
        assert_eq!(Selection::parse("Pod", "", "metadata.name=p").unwrap().name(), Some("p"));
        let error = Selection::parse("Service", "", "spec.nodeName=n").unwrap_err();
        assert!(error.code == 400 && error.message.contains("field label not supported"), "{error:?}");
    }
}
