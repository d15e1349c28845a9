//! The JSON schema of `evenkeel.yaml`: structure, defaults and descriptions from the types, ranges from the checks.
//!
//! Editors complete and check by it, and the reference of the keys is written from it (`reference`). Not here: what
//! depends on several keys at once; only `parse` knows that.

use schemars::generate::SchemaSettings;
use serde_json::{Number, Value};

use crate::Config;
use crate::check::{Range, ranges};
use crate::parse::read;

/// Has every part that may be left out, so that the checks come by every key. Its values do not matter.
const EVERYTHING: &str = "
listeners: [{address: 0.0.0.0:1, protocol: amqp, routes: [{pool: a}]}]
routes: [{pool: a}]
pools: {a: {endpoints: [], dns: {name: a}, placement: {zone_aware: {}}, move: {notice: {text: a}}, amqp: {}}}
tier: {service: a}
";

/// The schema (JSON Schema, draft 2020-12). A range of times has no word there: it is `x-range`, in words.
pub fn json_schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Config>().to_value();
    // Without its ranges the schema is still right.
    if let Ok((config, tree)) = read::<Config>(EVERYTHING) {
        for range in ranges(&config, &tree) {
            note(&mut schema, &range);
        }
    }
    schema
}

/// Writes a range beside the value that it is of.
fn note(schema: &mut Value, range: &Range) {
    let Some(place) = pointer(schema, range) else { return };
    let Some(Value::Object(found)) = schema.pointer_mut(&place) else { return };
    let number = |text: &str| text.parse::<Number>().ok().map(Value::Number);
    let most = range.most.as_deref().unwrap_or_default();
    match (number(&range.least), number(most)) {
        (Some(least), Some(most)) => {
            found.insert("minimum".into(), least);
            found.insert("maximum".into(), most);
        }
        (Some(least), None) if most.is_empty() => {
            found.insert("minimum".into(), least);
        }
        (Some(_) | None, _) => {
            found.insert("x-range".into(), format!("{} to {most}", range.least).into());
        }
    }
}

/// Where in the schema the value at a path is described.
fn pointer(schema: &Value, range: &Range) -> Option<String> {
    let mut place = String::new();
    for step in range.path.steps() {
        place = resolve(schema, place);
        let here = schema.pointer(&place)?;
        place = match step {
            None => format!("{place}/items"),
            Some(key) if here["properties"].get(key).is_some() => format!("{place}/properties/{key}"),
            Some(_) => format!("{place}/additionalProperties"),
        };
    }
    Some(place)
}

/// Follows references to where something is described, through the `anyOf` of what may be left out.
pub(crate) fn resolve(schema: &Value, mut place: String) -> String {
    while let Some(here) = schema.pointer(&place) {
        place = if let Some(reference) = here["$ref"].as_str() {
            reference.trim_start_matches('#').to_owned()
        } else if here["anyOf"][0].is_object() {
            format!("{place}/anyOf/0")
        } else {
            break;
        };
    }
    place
}
