// Command oldest compiles and evaluates a webhook's matchConditions with the code of kube-apiserver 1.30,
// the oldest one supported. It reads {"webhook": MutatingWebhook or ValidatingWebhook, "requests": [...]} and prints
// {"errors": [...], "sent": [...]}: what does not compile, and for each request whether the webhook is called.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	celplugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
)

type request struct {
	User      string         `json:"user"`
	Operation string         `json:"operation"`
	Name      string         `json:"name"`
	Object    map[string]any `json:"object"`
	OldObject map[string]any `json:"oldObject"`
}

type input struct {
	Webhook  admissionregistrationv1.MutatingWebhook `json:"webhook"`
	Requests []request                               `json:"requests"`
}

type output struct {
	Errors []string `json:"errors"`
	Sent   []bool   `json:"sent"`
}

func environmentOf() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion(), true)
}

// compileErrors is what kube-apiserver checks when the configuration is written.
func compileErrors(conditions []admissionregistrationv1.MatchCondition) []string {
	compiler := celplugin.NewCompiler(environmentOf())
	options := celplugin.OptionalVariableDeclarations{HasAuthorizer: true, StrictCost: true}
	problems := []string{}
	for _, condition := range conditions {
		accessor := &matchconditions.MatchCondition{Name: condition.Name, Expression: condition.Expression}
		result := compiler.CompileCELExpression(accessor, options, environment.NewExpressions)
		if result.Error != nil {
			problems = append(problems, condition.Name+": "+result.Error.Error())
		}
	}
	return problems
}

// typed is the object as kube-apiserver holds it: of a Go type where it is built in, else a map. Nil stays nil: an
// interface that holds a nil pointer would not be null in CEL.
func typed(content map[string]any) (runtime.Object, error) {
	if content == nil {
		return nil, nil
	}
	held := &unstructured.Unstructured{Object: content}
	var object runtime.Object
	switch kind := held.GroupVersionKind(); kind {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		object = &corev1.Pod{}
	case corev1.SchemeGroupVersion.WithKind("Namespace"):
		object = &corev1.Namespace{}
	case corev1.SchemeGroupVersion.WithKind("ConfigMap"):
		object = &corev1.ConfigMap{}
	default:
		return held, nil
	}
	return object, runtime.DefaultUnstructuredConverter.FromUnstructured(content, object)
}

func (r request) kind() schema.GroupVersionKind {
	for _, content := range []map[string]any{r.Object, r.OldObject} {
		if content != nil {
			return (&unstructured.Unstructured{Object: content}).GroupVersionKind()
		}
	}
	return schema.GroupVersionKind{}
}

func (r request) attributes() (*admission.VersionedAttributes, error) {
	kind := r.kind()
	object, err := typed(r.Object)
	if err != nil {
		return nil, err
	}
	oldObject, err := typed(r.OldObject)
	if err != nil {
		return nil, err
	}
	// No condition reads the resource.
	record := admission.NewAttributesRecord(object, oldObject, kind, "namespace", r.Name,
		kind.GroupVersion().WithResource("any"), "", admission.Operation(r.Operation), nil, false,
		&user.DefaultInfo{Name: r.User})
	return &admission.VersionedAttributes{
		Attributes: record, VersionedKind: kind, VersionedObject: object, VersionedOldObject: oldObject,
	}, nil
}

func main() {
	var in input
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Under Fail an error of an expression is reported, under Ignore it would look like "not sent".
	fail := admissionregistrationv1.Fail
	in.Webhook.FailurePolicy = &fail
	out := output{Errors: compileErrors(in.Webhook.MatchConditions), Sent: []bool{}}
	matcher := webhook.NewMutatingWebhookAccessor("uid", "configuration", &in.Webhook).
		GetCompiledMatcher(celplugin.NewFilterCompiler(environmentOf()))
	for index, r := range in.Requests {
		attributes, err := r.attributes()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		result := matcher.Match(context.Background(), attributes, nil, nil)
		if result.Error != nil {
			out.Errors = append(out.Errors, fmt.Sprintf("request %d: %v", index, result.Error))
		}
		out.Sent = append(out.Sent, result.Matches)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
