//! Which requests a tail shows.
use super::Passing;

/// All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// A route's id or name.
    route: Option<String>,
    status: Option<(u16, u16)>,
    /// A host, or `*.example.com` for all below it.
    host: Option<String>,
    method: Option<String>,
    /// How the path begins.
    path: Option<String>,
}

/// What cannot be filtered by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("{0}: not a status; 404, 5xx, 400-499 and >=400 are")]
    Status(String),
    #[error("{0}: not a filter; route, status, host, method and path are")]
    Name(String),
}

/// `404`, `5xx`, `400-499`, `>=400`.
fn range(text: &str) -> Option<(u16, u16)> {
    if let Some(least) = text.strip_prefix(">=") {
        return Some((least.parse().ok()?, u16::MAX));
    }
    if let Some((from, to)) = text.split_once('-') {
        return Some((from.parse().ok()?, to.parse().ok()?));
    }
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=9).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    let only = text.parse().ok()?;
    Some((only, only))
}

impl Filter {
    /// Of names and values; one that is empty does not filter.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Filter, FilterError> {
        let mut filter = Filter::default();
        for (name, value) in pairs {
            let given = Some(value.to_owned()).filter(|value| !value.is_empty());
            match name {
                "route" => filter.route = given,
                "host" => filter.host = given.map(|host| host.to_ascii_lowercase()),
                "method" => filter.method = given.map(|method| method.to_ascii_uppercase()),
                "path" => filter.path = given,
                "status" => {
                    filter.status = match given {
                        None => None,
                        Some(text) => Some(range(&text).ok_or(FilterError::Status(text))?),
                    }
                }
                other => return Err(FilterError::Name(other.to_owned())),
            }
        }
        Ok(filter)
    }

    /// Whether the request is shown.
    pub fn wants(&self, passing: &Passing<'_>) -> bool {
        let host = |wanted: &String| {
            let host = passing.host.to_ascii_lowercase();
            match wanted.strip_prefix('*') {
                Some(end) => host.ends_with(end) && host.len() > end.len(),
                None => host == *wanted,
            }
        };
        let route = |wanted: &String| {
            [passing.route, passing.route_name].into_iter().flatten().any(|own| own == wanted.as_str())
        };
        self.status.is_none_or(|(from, to)| (from..=to).contains(&passing.status))
            && self.route.as_ref().is_none_or(route)
            && self.host.as_ref().is_none_or(host)
            && self.method.as_ref().is_none_or(|wanted| wanted == passing.method)
            && self.path.as_ref().is_none_or(|wanted| passing.target.starts_with(wanted.as_str()))
    }
}
