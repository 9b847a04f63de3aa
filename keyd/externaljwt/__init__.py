"""The interface by which kube-apiserver has service account tokens signed. It is Kubernetes' own, and only its place is keyd's."""
