// Package test renders the Helm chart as Helm does, reads every manifest strictly into Kubernetes'
// own types, and the configuration as relay does. It is its own module, so that what it needs
// stays out of relay's.
package test

import (
	"encoding/json"
	"io"
	"io/fs"
	"log"
	"maps"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"workos-relay/internal/config"
	buses "workos-relay/internal/kinds"
)

const chartDir = "../relay"

// minimal is what everybody has to say.
const minimal = `
apiKey: {existingSecret: workos}
adminToken: {existingSecret: relay-admin}
config:
  sinks: [{name: kafka, type: kafka, brokers: ["kafka:9092"]}]
`

// full says all that there is.
const full = minimal + `
  source: {events: ["dsync.*"], webhook: {listen: "0.0.0.0:8081", secret: "${WEBHOOK_SECRET}"}}
  routes: [{events: ["dsync.user.*"], topic: people}]
  admin: {}
extraEnv: [{name: WEBHOOK_SECRET, valueFrom: {secretKeyRef: {name: hook, key: secret}}}]
extraEnvFrom: [{configMapRef: {name: more}}]
extraVolumes: [{name: ca, configMap: {name: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/ca, readOnly: true}]
startupProbe: {periodSeconds: 5, failureThreshold: 20}
service: {type: ClusterIP, port: 9000, annotations: {a: b}}
webhookService: {type: LoadBalancer, port: 443, annotations: {a: b}, loadBalancerSourceRanges: [192.0.2.0/24]}
ingress: {enabled: true, className: nginx, annotations: {a: b}, host: hooks.example.com, tlsSecret: hooks}
secretFiles: [{name: kafka, existingSecret: kafka-relay}]
image: {repository: registry.example/relay, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
imagePullSecrets: [{name: pull}]
replicaCount: 3
serviceMonitor: {enabled: true, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
networkPolicy:
  enabled: true
  admin: {from: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}
  webhook: {from: [{namespaceSelector: {matchLabels: {name: ingress}}}]}
  egress: [{ports: [{port: 53, protocol: UDP}, {port: 443}, {port: 9092}]}]
serviceAccount: {name: mine, annotations: {a: b}}
podAnnotations: {a: b}
podLabels: {a: b}
nodeSelector: {disk: ssd}
tolerations: [{key: a, operator: Exists}]
affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}
priorityClassName: high
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {a: b}}}]
`

// manual returns the values that the manual shows.
func manual(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/install.md")
	require.NoError(t, err)
	_, text, found := strings.Cut(string(page), "\n# values.yaml\n")
	require.True(t, found)
	values, _, _ := strings.Cut(text, "```")
	return values
}

// single is a relay with a volume.
const single = minimal + `
  delivery: at_least_once
replicaCount: 1
persistence: {enabled: true, storageClass: fast}
`

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // what the loader logs
	os.Exit(m.Run())
}

// render returns the manifests by kind; those that end in -webhook, -admin or -egress, and there may be more than one of, by kind and
// ending.
func render(t *testing.T, values string) (map[string][]byte, error) {
	t.Helper()
	c, err := loader.Load(chartDir)
	require.NoError(t, err)
	given, err := chartutil.ReadValues([]byte(values))
	require.NoError(t, err)
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.31.0", Major: "1", Minor: "31"}
	all, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{Name: "workos", Namespace: "default"}, caps)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for name, text := range files {
		if path.Ext(name) != ".yaml" || strings.TrimSpace(text) == "" {
			continue
		}
		for document := range strings.SplitSeq(text, "\n---\n") {
			var head struct {
				Kind     string
				Metadata struct{ Name string }
			}
			require.NoError(t, yaml.Unmarshal([]byte(document), &head), name)
			key := head.Kind
			for _, ending := range []string{"admin", "webhook", "egress"} {
				if strings.HasSuffix(head.Metadata.Name, "-"+ending) {
					key += "/" + ending
				}
			}
			require.False(t, out[key] != nil, "two of %s", key)
			out[key] = []byte(document)
		}
	}
	return out, nil
}

// kinds are the types that manifests are read into; nil has none in Kubernetes' own modules.
var kinds = map[string]func() any{
	"ConfigMap":             func() any { return &corev1.ConfigMap{} },
	"Deployment":            func() any { return &appsv1.Deployment{} },
	"Ingress":               func() any { return &networkingv1.Ingress{} },
	"NetworkPolicy":         func() any { return &networkingv1.NetworkPolicy{} },
	"PersistentVolumeClaim": func() any { return &corev1.PersistentVolumeClaim{} },
	"PodDisruptionBudget":   func() any { return &policyv1.PodDisruptionBudget{} },
	"PrometheusRule":        nil,
	"Service":               func() any { return &corev1.Service{} },
	"ServiceAccount":        func() any { return &corev1.ServiceAccount{} },
	"ServiceMonitor":        nil,
}

func read[T any](t *testing.T, manifest []byte) *T {
	t.Helper()
	var v T
	decode(t, manifest, &v)
	return &v
}

// decode reads a manifest as strictly as Kubernetes does if it is asked to: no unknown field, none twice, and the case of each.
func decode(t *testing.T, manifest []byte, into any) {
	t.Helper()
	text, err := yaml.YAMLToJSONStrict(manifest)
	require.NoError(t, err, string(manifest))
	faults, err := kjson.UnmarshalStrict(text, into)
	require.NoError(t, err, string(manifest))
	require.Empty(t, faults, string(manifest))
}

func TestManifestsAreWhatKubernetesTakes(t *testing.T) {
	always := []string{"ConfigMap", "Deployment", "Service", "ServiceAccount"}
	for name, c := range map[string]struct {
		values string
		kinds  []string
	}{
		"minimal":    {minimal, append([]string{"PodDisruptionBudget"}, always...)},
		"full":       {full, append([]string{"NetworkPolicy/admin", "NetworkPolicy/webhook", "NetworkPolicy/egress", "Service/webhook", "Ingress/webhook", "PodDisruptionBudget", "PrometheusRule", "ServiceMonitor"}, always...)},
		"single":     {single, append([]string{"PersistentVolumeClaim"}, always...)},
		"the manual": {manual(t), append([]string{"PodDisruptionBudget", "PrometheusRule", "ServiceMonitor"}, always...)},
	} {
		t.Run(name, func(t *testing.T) {
			manifests, err := render(t, c.values)
			require.NoError(t, err)
			require.ElementsMatch(t, c.kinds, slices.Collect(maps.Keys(manifests)))
			for kind, manifest := range manifests {
				kind, _, _ = strings.Cut(kind, "/")
				require.Contains(t, kinds, kind)
				if made := kinds[kind]; made != nil {
					decode(t, manifest, made())
				}
			}
			checkPod(t, read[appsv1.Deployment](t, manifests["Deployment"]))
			loadConfig(t, read[corev1.ConfigMap](t, manifests["ConfigMap"]).Data["config.yaml"])
		})
	}
}

// checkPod asserts what keeps a relay that was taken over from doing harm, and that all that is mounted is there.
func checkPod(t *testing.T, d *appsv1.Deployment) {
	t.Helper()
	pod := d.Spec.Template.Spec
	require.Equal(t, d.Spec.Selector.MatchLabels, intersect(d.Spec.Selector.MatchLabels, d.Spec.Template.Labels))
	require.True(t, *pod.SecurityContext.RunAsNonRoot)
	require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type)
	require.Positive(t, *pod.SecurityContext.RunAsUser)
	require.False(t, pod.HostNetwork || pod.HostPID || pod.HostIPC)
	require.False(t, *pod.AutomountServiceAccountToken)
	require.NotEmpty(t, pod.TopologySpreadConstraints)
	c := pod.Containers[0]
	require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
	require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
	require.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop)
	require.False(t, c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged)
	require.Equal(t, "/healthz", c.StartupProbe.HTTPGet.Path)
	require.Equal(t, "/healthz", c.LivenessProbe.HTTPGet.Path)
	require.Equal(t, "/readyz", c.ReadinessProbe.HTTPGet.Path)
	var volumes, mounts []string
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, m := range c.VolumeMounts {
		mounts = append(mounts, m.Name)
	}
	require.ElementsMatch(t, volumes, mounts)
}

func intersect(a, b map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range a {
		if b[k] == v {
			out[k] = v
		}
	}
	return out
}

// loadConfig has relay read the configuration, with files of this machine in the place of the secrets that are mounted.
func loadConfig(t *testing.T, text string) *config.Config {
	t.Helper()
	secret := path.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("sk_test_0123456789abcdef"), 0o600))
	for _, mounted := range []string{"/run/secrets/relay/api-key/api_key", "/run/secrets/relay/admin-token/token"} {
		require.Contains(t, text, mounted)
		text = strings.ReplaceAll(text, mounted, secret)
	}
	cfg, err := config.For(buses.All).Parse("config.yaml", []byte(text), func(string) (string, bool) { return "whsec_0123456789abcdef", true })
	require.NoError(t, err, text)
	require.Equal(t, "0.0.0.0:8080", cfg.Admin.Listen)
	require.True(t, cfg.Admin.Token.IsSet())
	require.Equal(t, "/data", cfg.Checkpoint.Dir)
	return cfg
}

func TestValuesThatWouldLoseEventsAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ values, err string }{
		"no API key":          {strings.Replace(minimal, "{existingSecret: workos}", "{}", 1), "apiKey.existingSecret is missing"},
		"no token":            {strings.Replace(minimal, "{existingSecret: relay-admin}", "{}", 1), "adminToken.existingSecret is missing"},
		"no sink":             {"apiKey: {existingSecret: a}\nadminToken: {existingSecret: b}\n", "config.sinks is empty"},
		"two at least once":   {minimal + "  delivery: at_least_once\n", "replicaCount is 2, but sink kafka has delivery: at_least_once"},
		"two, auto":           {minimal + "  delivery: auto\n", "replicaCount is 2, but sink kafka has delivery: auto"},
		"one of the sinks":    {strings.Replace(minimal, "type: kafka,", "type: kafka, delivery: at_least_once,", 1), "sink kafka has delivery: at_least_once"},
		"no volume":           {minimal + "  delivery: at_least_once\nreplicaCount: 1\n", "set persistence.enabled: true"},
		"embedded":            {strings.Replace(minimal, `kafka, brokers: ["kafka:9092"]`, "nats, url: embedded", 1), "a NATS server embedded"},
		"a volume for two":    {minimal + "persistence: {enabled: true}\n", "only one relay may have the volume"},
		"the key in the open": {minimal + "  source: {api_key: sk_live_1}\n", "config holds a secret"},
		"a misspelt value":    {minimal + "replica: 2\n", "replica"},
		"ingress of nothing":  {minimal + "ingress: {enabled: true, host: a.example}\n", "config.source.webhook.listen is missing"},
		"ingress of no host":  {strings.Replace(full, "host: hooks.example.com, ", "", 1), "host"},
		"Prometheus shut out": {strings.Replace(full, "admin: {from: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}", "", 1), "networkPolicy.admin.from is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(t, c.values)
			require.ErrorContains(t, err, c.err)
		})
	}
}

// TestWhoMayReachWhichPort reads the network policies as Kubernetes does: a pod that any of them selects takes what one of them allows.
func TestWhoMayReachWhichPort(t *testing.T) {
	allowed := func(t *testing.T, values string) map[string][]networkingv1.NetworkPolicyPeer {
		manifests, err := render(t, values)
		require.NoError(t, err)
		pod := read[appsv1.Deployment](t, manifests["Deployment"]).Spec.Template
		ports := map[string][]networkingv1.NetworkPolicyPeer{}
		for kind, manifest := range manifests {
			if !strings.HasPrefix(kind, "NetworkPolicy/") {
				continue
			}
			policy := read[networkingv1.NetworkPolicy](t, manifest)
			require.NotEmpty(t, policy.Spec.PodSelector.MatchLabels)
			require.Equal(t, policy.Spec.PodSelector.MatchLabels, intersect(policy.Spec.PodSelector.MatchLabels, pod.Labels))
			require.Len(t, policy.Spec.PolicyTypes, 1)
			for _, rule := range policy.Spec.Ingress {
				require.NotEmpty(t, rule.Ports, "a rule without ports opens all of them")
				for _, port := range rule.Ports {
					require.NotContains(t, ports, port.Port.String(), "one rule for each port")
					ports[port.Port.String()] = rule.From
				}
			}
		}
		return ports
	}
	name := func(peers []networkingv1.NetworkPolicyPeer) string {
		require.Len(t, peers, 1)
		return peers[0].NamespaceSelector.MatchLabels["name"]
	}
	all := allowed(t, full)
	require.Len(t, all, 2)
	require.Equal(t, "monitoring", name(all["admin"]))
	require.Equal(t, "ingress", name(all["webhook"]))

	closed := allowed(t, minimal+"  source: {webhook: {listen: \"0.0.0.0:8081\", secret: \"${WEBHOOK_SECRET}\"}}\nnetworkPolicy: {enabled: true}\n")
	require.NotContains(t, closed, "admin", "nobody unless it is said who")
	require.Contains(t, closed, "webhook")
	require.Empty(t, closed["webhook"], "everybody")
	require.Empty(t, allowed(t, minimal+"networkPolicy: {enabled: true}\n"), "no port of webhooks, so no rule for one")
}

// TestTheIngressReachesNothingButWebhooks follows the ingress to the port of the container.
func TestTheIngressReachesNothingButWebhooks(t *testing.T) {
	manifests, err := render(t, full)
	require.NoError(t, err)
	cfg := loadConfig(t, read[corev1.ConfigMap](t, manifests["ConfigMap"]).Data["config.yaml"])
	rules := read[networkingv1.Ingress](t, manifests["Ingress/webhook"]).Spec.Rules
	require.Len(t, rules, 1)
	require.Len(t, rules[0].HTTP.Paths, 1)
	route := rules[0].HTTP.Paths[0]
	require.Equal(t, networkingv1.PathTypeExact, *route.PathType)
	require.Equal(t, cfg.Source.Webhook.Path, route.Path)
	service := read[corev1.Service](t, manifests["Service/webhook"])
	require.Equal(t, service.Name, route.Backend.Service.Name)
	require.Len(t, service.Spec.Ports, 1)
	require.Equal(t, route.Backend.Service.Port.Name, service.Spec.Ports[0].Name)
	for _, port := range read[appsv1.Deployment](t, manifests["Deployment"]).Spec.Template.Spec.Containers[0].Ports {
		if port.Name == service.Spec.Ports[0].TargetPort.String() {
			require.Equal(t, int32(8081), port.ContainerPort)
			return
		}
	}
	require.Fail(t, "the service leads to no port of the container")
}

func TestAServiceAccountOfSomebodyElse(t *testing.T) {
	manifests, err := render(t, minimal+"serviceAccount: {create: false, name: theirs}\n")
	require.NoError(t, err)
	require.NotContains(t, manifests, "ServiceAccount")
	pod := read[appsv1.Deployment](t, manifests["Deployment"]).Spec.Template.Spec
	require.Equal(t, "theirs", pod.ServiceAccountName)
	require.False(t, *pod.AutomountServiceAccountToken)
}

// TestTheChartIsWhole: nothing of it is a link to what is outside of it, and its README names every value.
func TestTheChartIsWhole(t *testing.T) {
	require.NoError(t, fs.WalkDir(os.DirFS(chartDir), ".", func(name string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		require.Zero(t, entry.Type()&fs.ModeSymlink, "%s is a link", name)
		return nil
	}))
	readme, err := os.ReadFile(chartDir + "/README.md")
	require.NoError(t, err)
	c, err := loader.Load(chartDir)
	require.NoError(t, err)
	for key := range c.Values {
		require.Regexp(t, "`"+key+"[`.]", string(readme))
	}
}

func TestAChangedConfigurationReplacesThePods(t *testing.T) {
	sum := func(values string) string {
		manifests, err := render(t, values)
		require.NoError(t, err)
		return read[appsv1.Deployment](t, manifests["Deployment"]).Spec.Template.Annotations["checksum/config"]
	}
	require.NotEqual(t, sum(minimal), sum(minimal+"  encoding: cloudevents\n"))
	require.Equal(t, sum(minimal), sum(minimal+"podLabels: {a: b}\n"))
}

func TestTheAlertsOfTheChartAreThoseOfTheRepository(t *testing.T) {
	manifests, err := render(t, full)
	require.NoError(t, err)
	rule := read[struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}](t, manifests["PrometheusRule"])
	text, err := os.ReadFile("../../prometheus/alerts.yml")
	require.NoError(t, err)
	var want map[string]any
	require.NoError(t, yaml.Unmarshal(text, &want))
	require.True(t, reflect.DeepEqual(want, rule.Spec), "copy deploy/prometheus/alerts.yml to deploy/helm/relay/files: make generate")
}

func TestTheRunbooksOfTheAlertsMayBeElsewhere(t *testing.T) {
	manifests, err := render(t, strings.Replace(full, "prometheusRule: {enabled: true,", "prometheusRule: {enabled: true, runbooks: \"https://wiki.example/relay/runbooks\",", 1))
	require.NoError(t, err)
	require.Contains(t, string(manifests["PrometheusRule"]), "runbook_url: https://wiki.example/relay/runbooks#relaykeyrefused\n")
	require.NotContains(t, string(manifests["PrometheusRule"]), "file://")
}

func TestTheJobIsTheOneThatTheAlertsName(t *testing.T) {
	alerts, err := os.ReadFile("../../prometheus/alerts.yml")
	require.NoError(t, err)
	require.Contains(t, string(alerts), `up{job="relay"}`)
	manifests, err := render(t, full+"nameOverride: events\n")
	require.NoError(t, err)
	var monitor struct {
		Spec struct {
			Endpoints []struct{ Relabelings []map[string]string }
		}
	}
	require.NoError(t, yaml.Unmarshal(manifests["ServiceMonitor"], &monitor))
	require.Len(t, monitor.Spec.Endpoints, 1)
	require.Equal(t, []map[string]string{{"targetLabel": "job", "replacement": "relay"}}, monitor.Spec.Endpoints[0].Relabelings)
}

func TestLint(t *testing.T) {
	var values map[string]any
	text, err := yaml.YAMLToJSON([]byte(full))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &values))
	version := &chartutil.KubeVersion{Version: "v1.31.0", Major: "1", Minor: "31"}
	for _, m := range lint.AllWithKubeVersion(chartDir, values, "default", version).Messages {
		require.Less(t, m.Severity, support.WarningSev, "%s: %v", m.Path, m.Err)
	}
}
