//! Which labels a container's series carry. In: the container. Out: cAdvisor's labels.

use crate::profile::Container;

/// Namespace, pod, container and image; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes pod.
    pub pod: String,
    /// The container's own name within its pod; outside of Kubernetes its display name, by which reports and the API tell
    /// namesakes apart.
    pub container: String,
    /// Image reference.
    pub image: String,
}

impl Owner {
    /// Of a container.
    pub fn of(container: &Container) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            namespace: text(&container.namespace),
            pod: text(&container.pod),
            container: container.label().to_owned(),
            image: text(&container.image),
        }
    }

    /// Whoever has no series of their own.
    pub fn other() -> Self {
        Self { container: "other".to_owned(), ..Self::default() }
    }

    /// With one label more, or two; empty ones are left out when written.
    pub fn with<'l>(&'l self, first: (&'l str, &'l str), second: (&'l str, &'l str)) -> [(&'l str, &'l str); 6] {
        [
            ("namespace", &self.namespace),
            ("pod", &self.pod),
            ("container", &self.container),
            ("image", &self.image),
            first,
            second,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namesakes_that_reports_tell_apart_are_series_of_their_own() {
        let unit = |name: &str| Container {
            name: name.to_owned(),
            container: Some("nginx.service".to_owned()),
            runtime: "host".to_owned(),
            ..Container::default()
        };
        let mine = Owner::of(&unit("/system.slice/nginx.service"));
        let theirs = Owner::of(&unit("/lxc.payload.a/system.slice/nginx.service"));
        assert_ne!(mine, theirs);
        assert_eq!(mine.container, "/system.slice/nginx.service");
    }

    #[test]
    fn a_container_of_a_pod_goes_on_counting_when_it_was_started_again() {
        let started = |id: &str, name: &str| Container {
            id: id.to_owned(),
            name: name.to_owned(),
            pod: Some("web-1".to_owned()),
            namespace: Some("shop".to_owned()),
            container: Some("nginx".to_owned()),
            ..Container::default()
        };
        assert_eq!(Owner::of(&started("a1", "shop/web-1/nginx")), Owner::of(&started("b2", "shop/web-1/nginx@b2")));
    }
}
