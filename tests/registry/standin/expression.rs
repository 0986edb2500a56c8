//! The expressions, update operators and conditions that the stand-in knows.

use std::cmp::Ordering;

use mongodb::bson::{Bson, DateTime, Document};

use super::Refusal;

pub(super) fn unknown(what: &str) -> Refusal {
    Refusal(168, format!("the stand-in does not know {what}"), None)
}

pub(super) fn apply(mut document: Document, update: &Document) -> Result<Document, Refusal> {
    for (operator, fields) in update {
        for (field, value) in fields.as_document().unwrap() {
            let old = document.get(field).cloned();
            let new = match operator.as_str() {
                "$set" => value.clone(),
                "$inc" => Bson::Int64(old.map_or(0, |old| old.as_i64().unwrap()) + value.as_i64().unwrap()),
                "$max" => match old {
                    Some(old) if compare(&old, value) == Ordering::Greater => old,
                    _ => value.clone(),
                },
                "$pull" => {
                    let mut kept = old.unwrap().as_array().unwrap().clone();
                    let mut failed = None;
                    kept.retain(|row| {
                        let found = matches(row.as_document().unwrap(), value.as_document().unwrap());
                        !found.unwrap_or_else(|e| {
                            failed = Some(e);
                            false
                        })
                    });
                    if let Some(e) = failed {
                        return Err(e);
                    }
                    Bson::Array(kept)
                }
                other => return Err(unknown(other)),
            };
            document.insert(field, new);
        }
    }
    Ok(document)
}

pub(super) fn matches(document: &Document, filter: &Document) -> Result<bool, Refusal> {
    for (field, condition) in filter {
        let value = document.get(field).cloned().unwrap_or(Bson::Undefined);
        let is = match condition {
            Bson::Document(operators) => {
                let mut all = true;
                for (operator, operand) in operators {
                    all &= match operator.as_str() {
                        "$gte" => compare(&value, operand) != Ordering::Less,
                        "$lt" => compare(&value, operand) == Ordering::Less,
                        "$in" => operand.as_array().unwrap().iter().any(|one| compare(&value, one) == Ordering::Equal),
                        other => return Err(unknown(other)),
                    };
                }
                all
            }
            plain => compare(&value, plain) == Ordering::Equal,
        };
        if !is {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where an expression is evaluated. A path that leads nowhere is `Undefined`.
pub(super) struct Scope<'a> {
    pub(super) document: &'a Document,
    pub(super) row: Option<&'a Bson>,
    pub(super) now: i64,
}

fn at_path(value: Option<&Bson>, path: &[&str]) -> Bson {
    match (value, path.split_first()) {
        (None, _) => Bson::Undefined,
        (Some(value), None) => value.clone(),
        (Some(Bson::Document(document)), Some((first, rest))) => at_path(document.get(first), rest),
        _ => Bson::Undefined,
    }
}

fn is_true(value: &Bson) -> bool {
    !matches!(value, Bson::Undefined | Bson::Null | Bson::Boolean(false) | Bson::Int32(0) | Bson::Int64(0))
}

pub(super) fn eval(expression: &Bson, scope: &Scope<'_>) -> Result<Bson, Refusal> {
    Ok(match expression {
        Bson::String(text) => match (text.strip_prefix("$$"), text.strip_prefix('$')) {
            (Some("NOW"), _) => Bson::DateTime(DateTime::from_millis(scope.now)),
            (Some(variable), _) => {
                let parts: Vec<&str> = variable.split('.').collect();
                if parts[0] != "row" || scope.row.is_none() {
                    return Err(unknown(text));
                }
                at_path(scope.row, &parts[1..])
            }
            (None, Some(path)) => {
                let parts: Vec<&str> = path.split('.').collect();
                at_path(scope.document.get(parts[0]), &parts[1..])
            }
            (None, None) => expression.clone(),
        },
        Bson::Array(parts) => {
            let parts = parts.iter().map(|part| eval(part, scope)).collect::<Result<Vec<_>, _>>()?;
            Bson::Array(parts.into_iter().map(|p| if p == Bson::Undefined { Bson::Null } else { p }).collect())
        }
        Bson::Document(fields) => match fields.iter().next() {
            Some((operator, operand)) if operator.starts_with('$') && fields.len() == 1 => {
                operate(operator, operand, scope)?
            }
            _ => {
                let mut object = Document::new();
                for (name, value) in fields {
                    let value = eval(value, scope)?;
                    if value != Bson::Undefined {
                        object.insert(name, value);
                    }
                }
                Bson::Document(object)
            }
        },
        plain => plain.clone(),
    })
}

fn operate(operator: &str, operand: &Bson, scope: &Scope<'_>) -> Result<Bson, Refusal> {
    if operator == "$literal" {
        return Ok(operand.clone());
    }
    if operator == "$map" || operator == "$filter" {
        let fields = operand.as_document().unwrap();
        assert_eq!(fields.get_str("as").ok(), Some("row"));
        let input = eval(fields.get("input").unwrap(), scope)?;
        let Bson::Array(rows) = input else { return Err(Refusal(16_883, "input is no array".into(), None)) };
        let mut out = Vec::new();
        for row in rows {
            let inner = Scope { document: scope.document, row: Some(&row), now: scope.now };
            if operator == "$map" {
                out.push(eval(fields.get("in").unwrap(), &inner)?);
            } else if is_true(&eval(fields.get("cond").unwrap(), &inner)?) {
                out.push(row.clone());
            }
        }
        return Ok(Bson::Array(out));
    }
    let arguments = match operand {
        Bson::Array(parts) => parts.iter().map(|part| eval(part, scope)).collect::<Result<Vec<_>, _>>()?,
        single => vec![eval(single, scope)?],
    };
    let ordered = |is: fn(Ordering) -> bool| Bson::Boolean(is(compare(&arguments[0], &arguments[1])));
    Ok(match operator {
        "$and" => Bson::Boolean(arguments.iter().all(is_true)),
        "$not" => Bson::Boolean(!is_true(&arguments[0])),
        "$eq" => ordered(Ordering::is_eq),
        "$gt" => ordered(Ordering::is_gt),
        "$gte" => ordered(Ordering::is_ge),
        "$lt" => ordered(Ordering::is_lt),
        "$lte" => ordered(Ordering::is_le),
        "$cond" => arguments[if is_true(&arguments[0]) { 1 } else { 2 }].clone(),
        "$ifNull" => match &arguments[0] {
            Bson::Undefined | Bson::Null => arguments[1].clone(),
            there => there.clone(),
        },
        "$size" => Bson::Int32(i32::try_from(arguments[0].as_array().unwrap().len()).unwrap()),
        "$add" => {
            let mut sum = 0;
            let mut is_date = false;
            for argument in &arguments {
                match argument {
                    Bson::Int32(n) => sum += i64::from(*n),
                    Bson::Int64(n) => sum += n,
                    Bson::DateTime(at) if !is_date => {
                        is_date = true;
                        sum += at.timestamp_millis();
                    }
                    Bson::Undefined | Bson::Null => return Ok(Bson::Null),
                    other => {
                        return Err(Refusal(14, format!("$add only supports numbers and one date, not {other}"), None));
                    }
                }
            }
            if is_date { Bson::DateTime(DateTime::from_millis(sum)) } else { Bson::Int64(sum) }
        }
        "$mergeObjects" => {
            let mut merged = Document::new();
            for argument in &arguments {
                merged.extend(argument.as_document().unwrap().clone());
            }
            Bson::Document(merged)
        }
        "$concatArrays" => Bson::Array(arguments.iter().flat_map(|a| a.as_array().unwrap().clone()).collect()),
        other => return Err(unknown(other)),
    })
}

/// The order of MongoDB's types, as far as they occur, and within them.
fn compare(one: &Bson, other: &Bson) -> Ordering {
    fn rank(value: &Bson) -> u8 {
        match value {
            Bson::Undefined => 0,
            Bson::Null => 1,
            Bson::Int32(_) | Bson::Int64(_) => 2,
            Bson::String(_) => 3,
            Bson::Boolean(_) => 4,
            Bson::DateTime(_) => 5,
            other => panic!("nothing of this type is compared: {other}"),
        }
    }
    let number = |value: &Bson| match value {
        Bson::Int32(n) => i64::from(*n),
        Bson::Int64(n) => *n,
        _ => 0,
    };
    match (one, other) {
        (Bson::String(one), Bson::String(other)) => one.cmp(other),
        (Bson::Boolean(one), Bson::Boolean(other)) => one.cmp(other),
        (Bson::DateTime(one), Bson::DateTime(other)) => one.cmp(other),
        _ => rank(one).cmp(&rank(other)).then_with(|| number(one).cmp(&number(other))),
    }
}
