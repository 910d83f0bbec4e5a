"""jitney under the managers of many machines: manifests, and `deploy.ray`, which is code because Ray Serve's manifests are."""
