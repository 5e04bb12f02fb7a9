# The shop, as people write it: comments, short blocks, odd spacing.
variable "image" {
  default = "shop/web:7"
}

job "shop" {
  datacenters = ["*"]   # everywhere

  meta { team = "shop" }

  group "front" {
    count = 2

    /* One network for all. */
    network {
      mode = "bridge" // ours
      port "http" { to = 8080 }
      port "admin" {}
      port "mesh_health" {
        to = 15021
      }
    }

    service {
      name     = "web"
      provider = "nomad"
      port     = "http"   # the site
      meta { version = "v2" }

      check {
        type     = "http"
        path     = "/app-health/web/0" # cheap
        interval = "10s"
        timeout  = "1m30s"
        port = "mesh_health"
      }
      check {
        name = "script"
        type = "script"
        command = "/bin/true"
        interval = "10s"
        timeout = "2s"
      }
      check {
        name = "mesh-proxy"
        type = "http"
        port = "mesh_health"
        path = "/ready"
        interval = "5s"
        timeout = "2s"
      }
    }

    task "app" {
      driver = "docker"
      user   = "1000:1000"
      config {
        image = var.image
        args  = ["--host", "${NOMAD_IP_http}", "--name", "$${literal}"]
      }
      env {
        GREETING = <<-EOT
          hello ${NOMAD_ALLOC_ID}
        EOT
      }
    }
    constraint {
      attribute = "${attr.kernel.name}"
      value = "linux"
    }
    constraint {
      attribute = "${attr.nomad.version}"
      operator = "semver"
      value = ">= 1.7.0"
    }
    meta = {
      "mesh.injected" = "1"
      "mesh.inverse" = "W3sic2V0IjpbWyJDb25zdHJhaW50cyJdLFtudWxsXSxbeyJMVGFyZ2V0IjoiJHthdHRyLmtlcm5lbC5uYW1lfSIsIk9wZXJhbmQiOiI9IiwiUlRhcmdldCI6ImxpbnV4In0seyJMVGFyZ2V0IjoiJHthdHRyLm5vbWFkLnZlcnNpb259IiwiT3BlcmFuZCI6InNlbXZlciIsIlJUYXJnZXQiOiI-PSAxLjcuMCJ9XV19LHsic2V0IjpbWyJNZXRhIl0sW251bGxdLHsibWVzaC5pbmplY3RlZCI6IjEiLCJtZXNoLm1vZGUiOiJndWFyZCJ9XX0seyJhZGQiOltbIk5ldHdvcmtzIiwwLCJEeW5hbWljUG9ydHMiXSx7IkxhYmVsIjoibWVzaF9oZWFsdGgifV19LHsic2V0IjpbWyJTZXJ2aWNlcyIsWzAsIndlYiJdLCJDaGVja3MiLDAsIlBhdGgiXSxbIi9oZWFsdGgiXSwiL2FwcC1oZWFsdGgvd2ViLzAiXX0seyJzZXQiOltbIlNlcnZpY2VzIixbMCwid2ViIl0sIkNoZWNrcyIsMCwiUG9ydExhYmVsIl0sWyIiXSwibWVzaF9oZWFsdGgiXX0seyJzZXQiOltbIlNlcnZpY2VzIixbMCwid2ViIl0sIkNoZWNrcyIsMCwiSGVhZGVyIl0sW3siWC1Qcm9iZSI6WyJ5ZXMiXX1dLG51bGxdfSx7ImFkZCI6W1siU2VydmljZXMiLFswLCJ3ZWIiXSwiQ2hlY2tzIl0seyJOYW1lIjoibWVzaC1wcm94eSJ9XX0seyJhZGQiOltbIlRhc2tzIl0seyJOYW1lIjoibWVzaC1wcm94eSJ9XX0seyJhZGQiOltbIlRhc2tzIl0seyJOYW1lIjoibWVzaC1yZWFkeSJ9XX0seyJhZGQiOltbIlRhc2tzIl0seyJOYW1lIjoibWVzaC1ndWFyZCJ9XX1d"
      "mesh.mode" = "guard"
    }

    task "mesh-proxy" {
      driver = "docker"
      user = "1337:1337"
      kill_signal = "SIGTERM"
      kill_timeout = "20s"
      shutdown_delay = "5s"
      meta = { "mesh.role" = "proxy" }
      env = { "MESH_RULES_VERDICT" = "${NOMAD_ALLOC_DIR}/tmp/mesh-rules.json" }
      lifecycle {
        hook = "prestart"
        sidecar = true
      }
      config {
        args = ["agent", "--nomad", "${NOMAD_TASK_DIR}/mesh.json"]
        cap_drop = ["all"]
        entrypoint = ["mesh"]
        image = "mesh/sidecar:1"
        readonly_rootfs = true
      }
      identity {
        env = false
        file = true
      }
      identity {
        name = "mesh"
        aud = ["mesh-ca"]
        env = false
        file = true
        ttl = "3600s"
        change_mode = "noop"
      }
      template {
        data = "{\"mode\":\"guard\",\"trust_domain\":\"cluster.local\",\"mesh_namespace\":\"mesh-system\",\"service_account\":\"shop\",\"labels\":{\"version\":\"v2\"},\"services\":[{\"name\":\"web\",\"port\":8080,\"protocol\":\"http\"}],\"probes\":[{\"service\":\"web\",\"index\":0,\"kind\":\"http\",\"port\":8080,\"timeout_ms\":90000,\"path\":\"/health\",\"headers\":{\"X-Probe\":[\"yes\"]}}]}"
        destination = "local/mesh.json"
        change_mode = "noop"
        perms = "0644"
        left_delimiter = "<%mesh"
        right_delimiter = "mesh%>"
      }
      resources {
        cpu = 250
        memory = 128
      }
      logs {
        max_files = 2
        max_file_size = 2
      }
      restart {
        attempts = 10
        interval = "300s"
        delay = "1s"
        mode = "delay"
      }
    }

    task "mesh-ready" {
      driver = "docker"
      user = "1337:1337"
      meta = { "mesh.role" = "ready" }
      lifecycle {
        hook = "prestart"
        sidecar = false
      }
      config {
        args = ["agent", "wait", "--timeout", "120s", "--address", "127.0.0.1:${NOMAD_PORT_mesh_health}"]
        cap_drop = ["all"]
        entrypoint = ["mesh"]
        image = "mesh/sidecar:1"
        readonly_rootfs = true
      }
      resources {
        cpu = 50
        memory = 32
      }
      logs {
        max_files = 2
        max_file_size = 2
      }
    }

    task "mesh-guard" {
      driver = "docker"
      user = "0:0"
      kill_signal = "SIGTERM"
      meta = { "mesh.role" = "guard" }
      lifecycle {
        hook = "prestart"
        sidecar = true
      }
      config {
        args = ["redirect", "watch", "--policy", "${NOMAD_TASK_DIR}/policy.json", "--verdict", "${NOMAD_ALLOC_DIR}/tmp/mesh-rules.json", "--not-host-network"]
        cap_add = ["net_admin", "net_raw"]
        cap_drop = ["all"]
        entrypoint = ["mesh"]
        image = "mesh/sidecar:1"
        readonly_rootfs = true
      }
      template {
        data = "{\"dns\":{\"capture\":{\"to\":15053}},\"inbound\":{\"capture\":{\"ports\":{\"all_except\":[\"15020-15021\",15090]},\"to\":15006}},\"outbound\":{\"capture\":{\"to\":15001}},\"proxy\":{\"gids\":[1337],\"uids\":[1337]}}"
        destination = "local/policy.json"
        change_mode = "noop"
        perms = "0644"
        left_delimiter = "<%mesh"
        right_delimiter = "mesh%>"
      }
      resources {
        cpu = 50
        memory = 32
      }
      logs {
        max_files = 2
        max_file_size = 2
      }
      restart {
        attempts = 10
        interval = "300s"
        delay = "1s"
        mode = "delay"
      }
    }
  }

  group "plain" {
    network {
      mode = "bridge"
      port "mesh_health" {
        to = 15021
      }
    }
    task "worker" {
      driver = "exec"
      config { command = "/usr/local/bin/worker" }
      service {
        provider = "nomad"
        name = "worker"
        port = 7000
        address_mode = "alloc"
        check {
          type = "http"
          port = "mesh_health"
          interval = "5s"
          timeout = "1s"
          path = "/app-health/worker/0"
        }
      }
    }
    meta = {
      "owner" = "ops", stage = "live"
      "mesh.injected" = "1"
      "mesh.inverse" = "W3sic2V0IjpbWyJDb25zdHJhaW50cyJdLFtudWxsXSxbeyJMVGFyZ2V0IjoiJHthdHRyLmtlcm5lbC5uYW1lfSIsIk9wZXJhbmQiOiI9IiwiUlRhcmdldCI6ImxpbnV4In0seyJMVGFyZ2V0IjoiJHthdHRyLm5vbWFkLnZlcnNpb259IiwiT3BlcmFuZCI6InNlbXZlciIsIlJUYXJnZXQiOiI-PSAxLjcuMCJ9XV19LHsic2V0IjpbWyJNZXRhIiwibWVzaC5pbmplY3RlZCJdLFtdLCIxIl19LHsic2V0IjpbWyJNZXRhIiwibWVzaC5tb2RlIl0sW10sImd1YXJkIl19LHsic2V0IjpbWyJOZXR3b3JrcyIsMCwiRHluYW1pY1BvcnRzIl0sW251bGxdLFt7IkxhYmVsIjoibWVzaF9oZWFsdGgifV1dfSx7InNldCI6W1siU2VydmljZXMiXSxbbnVsbF0sW3siTmFtZSI6Im1lc2gtcHJveHktcGxhaW4ifV1dfSx7InNldCI6W1siVGFza3MiLFswLCJ3b3JrZXIiXSwiU2VydmljZXMiLFswLCJ3b3JrZXIiXSwiQ2hlY2tzIiwwLCJQYXRoIl0sWyIiXSwiL2FwcC1oZWFsdGgvd29ya2VyLzAiXX0seyJzZXQiOltbIlRhc2tzIixbMCwid29ya2VyIl0sIlNlcnZpY2VzIixbMCwid29ya2VyIl0sIkNoZWNrcyIsMCwiUG9ydExhYmVsIl0sWyI3MDAxIl0sIm1lc2hfaGVhbHRoIl19LHsic2V0IjpbWyJUYXNrcyIsWzAsIndvcmtlciJdLCJTZXJ2aWNlcyIsWzAsIndvcmtlciJdLCJDaGVja3MiLDAsIlR5cGUiXSxbInRjcCJdLCJodHRwIl19LHsiYWRkIjpbWyJUYXNrcyJdLHsiTmFtZSI6Im1lc2gtcHJveHkifV19LHsiYWRkIjpbWyJUYXNrcyJdLHsiTmFtZSI6Im1lc2gtcmVhZHkifV19LHsiYWRkIjpbWyJUYXNrcyJdLHsiTmFtZSI6Im1lc2gtZ3VhcmQifV19XQ"
      "mesh.mode" = "guard"
    }
    service {
      name = "mesh-proxy-plain"
      provider = "nomad"
      port = "mesh_health"
      check {
        name = "mesh-proxy"
        type = "http"
        port = "mesh_health"
        path = "/ready"
        interval = "5s"
        timeout = "2s"
      }
    }
    constraint {
      attribute = "${attr.kernel.name}"
      value = "linux"
    }
    constraint {
      attribute = "${attr.nomad.version}"
      operator = "semver"
      value = ">= 1.7.0"
    }

    task "mesh-proxy" {
      driver = "exec"
      user = "mesh-proxy"
      kill_signal = "SIGTERM"
      kill_timeout = "20s"
      shutdown_delay = "5s"
      meta = { "mesh.role" = "proxy" }
      env = { "MESH_RULES_VERDICT" = "${NOMAD_ALLOC_DIR}/tmp/mesh-rules.json" }
      lifecycle {
        hook = "prestart"
        sidecar = true
      }
      config {
        args = ["agent", "--nomad", "${NOMAD_TASK_DIR}/mesh.json"]
        command = "/usr/local/bin/mesh"
      }
      identity {
        env = false
        file = true
      }
      identity {
        name = "mesh"
        aud = ["mesh-ca"]
        env = false
        file = true
        ttl = "3600s"
        change_mode = "noop"
      }
      template {
        data = "{\"mode\":\"guard\",\"trust_domain\":\"cluster.local\",\"mesh_namespace\":\"mesh-system\",\"service_account\":\"shop\",\"services\":[{\"name\":\"worker\",\"port\":7000,\"protocol\":\"tcp\"}],\"probes\":[{\"service\":\"worker\",\"index\":0,\"kind\":\"tcp\",\"port\":7001,\"timeout_ms\":1000}]}"
        destination = "local/mesh.json"
        change_mode = "noop"
        perms = "0644"
        left_delimiter = "<%mesh"
        right_delimiter = "mesh%>"
      }
      resources {
        cpu = 250
        memory = 128
      }
      logs {
        max_files = 2
        max_file_size = 2
      }
      restart {
        attempts = 10
        interval = "300s"
        delay = "1s"
        mode = "delay"
      }
    }

    task "mesh-ready" {
      driver = "exec"
      user = "mesh-proxy"
      meta = { "mesh.role" = "ready" }
      lifecycle {
        hook = "prestart"
        sidecar = false
      }
      config {
        args = ["agent", "wait", "--timeout", "120s", "--address", "127.0.0.1:${NOMAD_PORT_mesh_health}"]
        command = "/usr/local/bin/mesh"
      }
      resources {
        cpu = 50
        memory = 32
      }
      logs {
        max_files = 2
        max_file_size = 2
      }
    }

    task "mesh-guard" {
      driver = "exec"
      user = "mesh-proxy"
      kill_signal = "SIGTERM"
      meta = { "mesh.role" = "guard" }
      lifecycle {
        hook = "prestart"
        sidecar = true
      }
      config {
        args = ["redirect", "watch", "--policy", "${NOMAD_TASK_DIR}/policy.json", "--verdict", "${NOMAD_ALLOC_DIR}/tmp/mesh-rules.json", "--not-host-network"]
        cap_add = ["net_admin", "net_raw"]
        command = "/usr/local/bin/mesh"
      }
      template {
        data = "{\"dns\":{\"capture\":{\"to\":15053}},\"inbound\":{\"capture\":{\"ports\":{\"all_except\":[\"15020-15021\",15090]},\"to\":15006}},\"outbound\":{\"capture\":{\"to\":15001}},\"proxy\":{\"gids\":[1337],\"uids\":[1337]}}"
        destination = "local/policy.json"
        change_mode = "noop"
        perms = "0644"
        left_delimiter = "<%mesh"
        right_delimiter = "mesh%>"
      }
      resources {
        cpu = 50
        memory = 32
      }
      logs {
        max_files = 2
        max_file_size = 2
      }
      restart {
        attempts = 10
        interval = "300s"
        delay = "1s"
        mode = "delay"
      }
    }
  }

  group "left" {
    meta = {
      "mesh.inject" = "false"
    }
    task "alone" {
      driver = "raw_exec"
      config { command = "/bin/true" }
    }
  }
}
