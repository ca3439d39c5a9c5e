{{/*
Prints an object of manifests/ for this release: (list $ OBJECT). Its name stays: clients look for it.
Values are set in parsed objects, as k8s/src/manifest.rs does, never pasted into text.
*/}}
{{- define "kvpn.object" -}}
{{- $root := index . 0 -}}
{{- $object := index . 1 -}}
{{- $_ := set $object.metadata "namespace" $root.Release.Namespace -}}
{{- include "kvpn.label" (list $root $object.metadata.labels) -}}
{{- range $object.subjects -}}
{{- $_ := set . "namespace" $root.Release.Namespace -}}
{{- end -}}
{{- toYaml $object -}}
{{- end -}}

{{/* Marks labels as this release's: (list $ LABELS). kvpn itself changes only what says `managed-by: kvpn`. */}}
{{- define "kvpn.label" -}}
{{- $root := index . 0 -}}
{{- $labels := index . 1 -}}
{{- $_ := set $labels "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- end -}}
