package resolver

import "github.com/layertrace/layertrace/internal/record"

// kubernetesOf returns where a container belongs in Kubernetes, by the labels
// that kubelet gives to every container; nil if it has none. Container is empty
// for a pod's sandbox.
func kubernetesOf(labels map[string]string) *record.Kubernetes {
	k := record.Kubernetes{
		Namespace: labels["io.kubernetes.pod.namespace"],
		Pod:       labels["io.kubernetes.pod.name"],
		PodUID:    labels["io.kubernetes.pod.uid"],
		Container: labels["io.kubernetes.container.name"],
	}
	if k.Namespace == "" || k.Pod == "" {
		return nil
	}
	if k.Container == "POD" { // what dockershim and its heirs call the sandbox
		k.Container = ""
	}
	return &k
}
