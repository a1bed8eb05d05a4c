{{- define "relay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (default .Chart.Name .Values.nameOverride) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (default .Chart.Name .Values.nameOverride) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "relay.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "relay.labels" -}}
{{ include "relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "relay.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "relay.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "relay.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The Service of webhooks, which is apart from that of the admin port so that it may be of another type. */}}
{{- define "relay.webhookService" -}}
{{ include "relay.fullname" . | trunc 55 | trimSuffix "-" }}-webhook
{{- end -}}

{{/* The path of webhooks, as relay has it. */}}
{{- define "relay.webhookPath" -}}
{{- ((.Values.config.source | default dict).webhook | default dict).path | default "/workos/webhook" -}}
{{- end -}}

{{/* The port of webhooks; empty if there are none. */}}
{{- define "relay.webhookPort" -}}
{{- with ((.Values.config.source | default dict).webhook | default dict).listen -}}
{{ splitList ":" . | last }}
{{- end -}}
{{- end -}}

{{/* Refuses values with which relay would lose events, stand still, or be open to everybody. */}}
{{- define "relay.check" -}}
{{- if not .Values.apiKey.existingSecret -}}
{{- fail "apiKey.existingSecret is missing: name a Secret with the WorkOS API key (kubectl create secret generic workos --from-file=api_key=FILE)" -}}
{{- end -}}
{{- if not .Values.adminToken.existingSecret -}}
{{- fail "adminToken.existingSecret is missing: name a Secret with the token of the admin address (kubectl create secret generic relay-admin --from-literal=token=$(openssl rand -hex 24))" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not (include "relay.webhookPort" .)) -}}
{{- fail "ingress.enabled is true, but config.source.webhook.listen is missing: the ingress is for webhooks" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.serviceMonitor.enabled (not .Values.networkPolicy.admin.from) -}}
{{- fail "serviceMonitor.enabled and networkPolicy.enabled are true, but networkPolicy.admin.from is empty, so Prometheus could not reach relay: name it there, for example [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]" -}}
{{- end -}}
{{- if not .Values.config.sinks -}}
{{- fail "config.sinks is empty: name the bus that the events go to, as in config.example.yaml" -}}
{{- end -}}
{{- if or (hasKey (.Values.config.source | default dict) "api_key") (hasKey (.Values.config.admin | default dict) "token") -}}
{{- fail "config holds a secret, which would be readable in a ConfigMap: name Secrets by apiKey.existingSecret and adminToken.existingSecret" -}}
{{- end -}}
{{- range $sink := .Values.config.sinks -}}
{{- $mode := $sink.delivery | default $.Values.config.delivery | default "auto" -}}
{{- $single := "" -}}
{{- if ne $mode "exactly_once" -}}
{{- $single = printf "has delivery: %s, whose position is kept in a file" $mode -}}
{{- else if and (eq $sink.type "nats") (eq ($sink.url | default "") "embedded") -}}
{{- $single = "has a NATS server embedded, which stores in the pod" -}}
{{- end -}}
{{- if and $single (gt (int $.Values.replicaCount) 1) -}}
{{- fail (printf "replicaCount is %v, but sink %s %s: set replicaCount: 1 and persistence.enabled: true, or delivery: exactly_once on a bus of its own" $.Values.replicaCount $sink.name $single) -}}
{{- end -}}
{{- if and $single (not $.Values.persistence.enabled) -}}
{{- fail (printf "sink %s %s: set persistence.enabled: true, or a new pod would not know where to go on" $sink.name $single) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.persistence.enabled (gt (int .Values.replicaCount) 1) -}}
{{- fail "persistence.enabled is true, but replicaCount is more than 1: only one relay may have the volume" -}}
{{- end -}}
{{- end -}}

{{/* The configuration file: the values, and what the chart decides. */}}
{{- define "relay.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $source := $config.source | default dict -}}
{{- $_ := set $source "api_key_file" (printf "/run/secrets/relay/api-key/%s" .Values.apiKey.key) -}}
{{- $_ := set $config "source" $source -}}
{{- $admin := $config.admin | default dict -}}
{{- $_ := set $admin "listen" "0.0.0.0:8080" -}}
{{- $_ := set $admin "token_file" (printf "/run/secrets/relay/admin-token/%s" .Values.adminToken.key) -}}
{{- $_ := set $config "admin" $admin -}}
{{- $_ := set $config "checkpoint" (dict "dir" "/data") -}}
{{- if not $config.instance }}{{- $_ := set $config "instance" "${POD_NAME}" -}}{{- end }}
{{- $_ := set $config "log" (merge (dict) ($config.log | default dict) (dict "format" "json" "level" .Values.logLevel)) -}}
{{- toYaml $config -}}
{{- end -}}
