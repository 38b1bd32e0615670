//! Which labels a container's series carry. In: the container. Out: cAdvisor's labels.

use crate::profile::Container;

/// Namespace, pod, container and image; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes pod.
    pub pod: String,
    /// The container's own name within its pod, the runtime's name, or the unit's.
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
            container: container.container.clone().unwrap_or_else(|| container.name.clone()),
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
