//! An upstream's balancing beyond APISIX, compiled. Surprise: `zone_preference` is nothing where the gateway was not told
//! its own zone.
use super::CompileSettings;
use sluice_model::{balancing as model, upstream::Upstream};
use sluice_upstream::sticky::SameSite;
use sluice_upstream::{LoadReport, SlowStart, Sticky, StickySettings, ZonePreference};
use std::time::Duration;

pub(super) fn slow_start(slow_start: &model::SlowStart) -> SlowStart {
    SlowStart {
        window: Duration::try_from_secs_f64(slow_start.window).unwrap_or_default(),
        min_weight_percent: slow_start.min_weight_percent,
        aggression: slow_start.aggression,
    }
}

pub(super) fn zone(upstream: &Upstream, settings: &CompileSettings) -> Option<ZonePreference> {
    let preference = upstream.zone_preference.as_ref()?;
    Some(ZonePreference {
        zone: settings.zone.clone()?,
        metadata_key: preference.metadata_key.as_str().into(),
        min_healthy_percent: preference.min_healthy_percent,
    })
}

/// `upstream`: its resource key.
pub(super) fn sticky(sticky: &model::Sticky, upstream: &str) -> Sticky {
    let settings = StickySettings {
        cookie: sticky.cookie.clone(),
        path: sticky.path.clone(),
        ttl: sticky.ttl,
        http_only: sticky.http_only,
        secure: sticky.secure,
        same_site: sticky.same_site.map(|same_site| match same_site {
            model::SameSite::Lax => SameSite::Lax,
            model::SameSite::Strict => SameSite::Strict,
            model::SameSite::None => SameSite::None,
        }),
        secret: sticky.secret.clone(),
    };
    Sticky::compile(&settings, upstream)
}

pub(super) fn load_report(report: &model::LoadReport) -> LoadReport {
    LoadReport {
        header: report.header.as_str().into(),
        metric: report.metric.as_deref().map(Into::into),
        full: report.full as f32,
    }
}
