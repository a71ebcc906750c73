// Command controllerruntime is the rival: the same mutation as vm-consistency's filesystem level with default hooks,
// written the usual way for Go. It looks nothing up and decides nothing: every launcher pod gets filesystem.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const (
	pre    = "pre.hook.backup.velero.io/"
	post   = "post.hook.backup.velero.io/"
	legacy = "hook.backup.velero.io/"
	own    = "vm-consistency.io/"
)

var fields = []string{"command", "container", "on-error", "timeout"}

type handler struct{ decoder admission.Decoder }

func (h *handler) Handle(_ context.Context, request admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := h.decoder.Decode(request, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	vmi := launcherOf(pod)
	if vmi == "" {
		return admission.Allowed("no launcher pod")
	}
	if err := mutate(pod, request.Namespace, vmi); err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	mutated, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, mutated)
}

func launcherOf(pod *corev1.Pod) string {
	owner := metav1.GetControllerOf(pod)
	if pod.Labels["kubevirt.io"] != "virt-launcher" || owner == nil || owner.Kind != "VirtualMachineInstance" {
		return ""
	}
	if !strings.HasPrefix(owner.APIVersion, "kubevirt.io/") {
		return ""
	}
	return owner.Name
}

func mutate(pod *corev1.Pod, namespace, vmi string) error {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	for _, field := range fields {
		delete(pod.Annotations, legacy+field)
	}
	record := map[string]string{own + "effective-level": "filesystem", own + "decided-by": "default"}
	for prefix, verb := range map[string]string{pre: "--freeze", post: "--unfreeze"} {
		record[prefix+"command"] = command(verb, vmi, namespace)
		record[prefix+"container"] = "compute"
		record[prefix+"on-error"] = "Continue"
		record[prefix+"timeout"] = "60s"
	}
	digested, err := json.Marshal(record) // sorts the keys
	if err != nil {
		return err
	}
	sum := sha256.Sum256(digested)
	for key, value := range record {
		pod.Annotations[key] = value
	}
	pod.Annotations[own+"hooks-digest"] = "sha256:" + hex.EncodeToString(sum[:])
	return nil
}

// command spaces the array like KubeVirt, whose own hooks these equal byte for byte.
func command(verb, vmi, namespace string) string {
	words := []string{"/usr/bin/virt-freezer", verb, "--name", vmi, "--namespace", namespace}
	for index, word := range words {
		words[index] = `"` + word + `"`
	}
	return "[" + strings.Join(words, ", ") + "]"
}

func main() {
	port := flag.Int("port", 0, "HTTPS port on 127.0.0.1")
	certificates := flag.String("certs", "", "folder with tls.crt and tls.key")
	flag.Parse()
	ctrl.SetLogger(zap.New())
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		log.Fatal(err)
	}
	server := webhook.NewServer(webhook.Options{
		Host: "127.0.0.1", Port: *port, CertDir: *certificates,
		// HTTP/2 off, as kubebuilder's scaffold has it.
		TLSOpts: []func(*tls.Config){func(config *tls.Config) { config.NextProtos = []string{"http/1.1"} }},
	})
	server.Register("/mutate/pods", &webhook.Admission{Handler: &handler{decoder: admission.NewDecoder(scheme)}})
	log.Fatal(server.Start(ctrl.SetupSignalHandler()))
}
