//! Whose cgroup is it: cgroup id in, container, pod and unit out.
