//! The status page: one file, nothing fetched from elsewhere, and no data in it.
//!
//! It asks the same API as the commands, under the same guard, and puts what it hears into the page as text. The policy
//! sent with it lets nothing run or load that is not in this file.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use uuid::Uuid;

/// Stands in the page where its style and script say that they belong to it.
const NONCE: &str = "@NONCE@";

/// The page with its style and script inside.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("page/page.html").replace("@STYLE@", include_str!("page/page.css")).replace(
        "@SCRIPT@",
        concat!(include_str!("page/basics.js"), include_str!("page/plot.js"), include_str!("page/page.js")),
    )
});

/// The page.
pub fn page() -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Html(PAGE.replace(NONCE, &nonce)).into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_fetches_nothing_from_elsewhere_and_marks_its_own_parts() {
        for forbidden in
            ["src=", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacentHTML", "@STYLE@", "@SCRIPT@"]
        {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        let elsewhere =
            PAGE.match_indices("http").filter(|(at, _)| !PAGE[*at..].starts_with("http://www.w3.org/2000/svg"));
        assert_eq!(elsewhere.count(), 0);
        assert_eq!(PAGE.matches(NONCE).count(), PAGE.matches("<script").count() + PAGE.matches("<style").count());
    }

    #[test]
    fn each_answer_has_its_own_nonce() {
        let policy = |response: Response| response.headers()[header::CONTENT_SECURITY_POLICY].clone();
        assert_ne!(policy(page()), policy(page()));
    }
}
