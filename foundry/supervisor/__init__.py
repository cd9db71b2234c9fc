"""The one reconciler: desired state against what is observed on the cluster."""
