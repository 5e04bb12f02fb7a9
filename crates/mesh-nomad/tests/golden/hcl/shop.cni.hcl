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
      mode = "cni/mesh" // ours
      port "http" { to = 8080 }
      port "admin" {}
      cni {
        args = { "MESH_CONFIG" = "eyJkbnMiOnsiY2FwdHVyZSI6eyJ0byI6MTUwNTN9fSwiaW5ib3VuZCI6eyJjYXB0dXJlIjp7InBvcnRzIjp7ImFsbF9leGNlcHQiOlsiMTUwMjAtMTUwMjEiLDE1MDkwXX0sInRvIjoxNTAwNn19LCJvdXRib3VuZCI6eyJjYXB0dXJlIjp7InRvIjoxNTAwMX19LCJwcm94eSI6eyJnaWRzIjpbMTMzN10sInVpZHMiOlsxMzM3XX19" }
      }
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
      value = ">= 1.8.2"
    }
    constraint {
      attribute = "${attr.plugins.cni.version.mesh-cni}"
      operator = "semver"
      value = ">= 0.1.0"
    }
    meta = {
      "mesh.injected" = "1"
      "mesh.inverse" = "W3sic2V0IjpbWyJDb25zdHJhaW50cyJdLFtudWxsXSxbeyJMVGFyZ2V0IjoiJHthdHRyLmtlcm5lbC5uYW1lfSIsIk9wZXJhbmQiOiI9IiwiUlRhcmdldCI6ImxpbnV4In0seyJMVGFyZ2V0IjoiJHthdHRyLm5vbWFkLnZlcnNpb259IiwiT3BlcmFuZCI6InNlbXZlciIsIlJUYXJnZXQiOiI-PSAxLjguMiJ9LHsiTFRhcmdldCI6IiR7YXR0ci5wbHVnaW5zLmNuaS52ZXJzaW9uLm1lc2gtY25pfSIsIk9wZXJhbmQiOiJzZW12ZXIiLCJSVGFyZ2V0IjoiPj0gMC4xLjAifV1dfSx7InNldCI6W1siTWV0YSJdLFtudWxsXSx7Im1lc2guaW5qZWN0ZWQiOiIxIiwibWVzaC5tb2RlIjoiY25pIn1dfSx7InNldCI6W1siTmV0d29ya3MiLDAsIkNOSSJdLFtudWxsXSx7IkFyZ3MiOnsiTUVTSF9DT05GSUciOiJleUprYm5NaU9uc2lZMkZ3ZEhWeVpTSTZleUowYnlJNk1UVXdOVE45ZlN3aWFXNWliM1Z1WkNJNmV5SmpZWEIwZFhKbElqcDdJbkJ2Y25SeklqcDdJbUZzYkY5bGVHTmxjSFFpT2xzaU1UVXdNakF0TVRVd01qRWlMREUxTURrd1hYMHNJblJ2SWpveE5UQXdObjE5TENKdmRYUmliM1Z1WkNJNmV5SmpZWEIwZFhKbElqcDdJblJ2SWpveE5UQXdNWDE5TENKd2NtOTRlU0k2ZXlKbmFXUnpJanBiTVRNek4xMHNJblZwWkhNaU9sc3hNek0zWFgxOSJ9fV19LHsiYWRkIjpbWyJOZXR3b3JrcyIsMCwiRHluYW1pY1BvcnRzIl0seyJMYWJlbCI6Im1lc2hfaGVhbHRoIn1dfSx7InNldCI6W1siTmV0d29ya3MiLDAsIk1vZGUiXSxbImJyaWRnZSJdLCJjbmkvbWVzaCJdfSx7InNldCI6W1siU2VydmljZXMiLFswLCJ3ZWIiXSwiQ2hlY2tzIiwwLCJQYXRoIl0sWyIvaGVhbHRoIl0sIi9hcHAtaGVhbHRoL3dlYi8wIl19LHsic2V0IjpbWyJTZXJ2aWNlcyIsWzAsIndlYiJdLCJDaGVja3MiLDAsIlBvcnRMYWJlbCJdLFsiIl0sIm1lc2hfaGVhbHRoIl19LHsic2V0IjpbWyJTZXJ2aWNlcyIsWzAsIndlYiJdLCJDaGVja3MiLDAsIkhlYWRlciJdLFt7IlgtUHJvYmUiOlsieWVzIl19XSxudWxsXX0seyJhZGQiOltbIlNlcnZpY2VzIixbMCwid2ViIl0sIkNoZWNrcyJdLHsiTmFtZSI6Im1lc2gtcHJveHkifV19LHsiYWRkIjpbWyJUYXNrcyJdLHsiTmFtZSI6Im1lc2gtcHJveHkifV19LHsiYWRkIjpbWyJUYXNrcyJdLHsiTmFtZSI6Im1lc2gtcmVhZHkifV19XQ"
      "mesh.mode" = "cni"
    }

    task "mesh-proxy" {
      driver = "docker"
      user = "1337:1337"
      kill_signal = "SIGTERM"
      kill_timeout = "20s"
      shutdown_delay = "5s"
      meta = { "mesh.role" = "proxy" }
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
        data = "{\"mode\":\"cni\",\"trust_domain\":\"cluster.local\",\"mesh_namespace\":\"mesh-system\",\"service_account\":\"shop\",\"labels\":{\"version\":\"v2\"},\"services\":[{\"name\":\"web\",\"port\":8080,\"protocol\":\"http\"}],\"probes\":[{\"service\":\"web\",\"index\":0,\"kind\":\"http\",\"port\":8080,\"timeout_ms\":90000,\"path\":\"/health\",\"headers\":{\"X-Probe\":[\"yes\"]}}]}"
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
  }

  group "plain" {
    network {
      mode = "cni/mesh"
      cni {
        args = { "MESH_CONFIG" = "eyJkbnMiOnsiY2FwdHVyZSI6eyJ0byI6MTUwNTN9fSwiaW5ib3VuZCI6eyJjYXB0dXJlIjp7InBvcnRzIjp7ImFsbF9leGNlcHQiOlsiMTUwMjAtMTUwMjEiLDE1MDkwXX0sInRvIjoxNTAwNn19LCJvdXRib3VuZCI6eyJjYXB0dXJlIjp7InRvIjoxNTAwMX19LCJwcm94eSI6eyJnaWRzIjpbMTMzN10sInVpZHMiOlsxMzM3XX19" }
      }
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
      "mesh.inverse" = "W3sic2V0IjpbWyJDb25zdHJhaW50cyJdLFtudWxsXSxbeyJMVGFyZ2V0IjoiJHthdHRyLmtlcm5lbC5uYW1lfSIsIk9wZXJhbmQiOiI9IiwiUlRhcmdldCI6ImxpbnV4In0seyJMVGFyZ2V0IjoiJHthdHRyLm5vbWFkLnZlcnNpb259IiwiT3BlcmFuZCI6InNlbXZlciIsIlJUYXJnZXQiOiI-PSAxLjguMiJ9LHsiTFRhcmdldCI6IiR7YXR0ci5wbHVnaW5zLmNuaS52ZXJzaW9uLm1lc2gtY25pfSIsIk9wZXJhbmQiOiJzZW12ZXIiLCJSVGFyZ2V0IjoiPj0gMC4xLjAifV1dfSx7InNldCI6W1siTWV0YSIsIm1lc2guaW5qZWN0ZWQiXSxbXSwiMSJdfSx7InNldCI6W1siTWV0YSIsIm1lc2gubW9kZSJdLFtdLCJjbmkiXX0seyJzZXQiOltbIk5ldHdvcmtzIiwwLCJDTkkiXSxbbnVsbF0seyJBcmdzIjp7Ik1FU0hfQ09ORklHIjoiZXlKa2JuTWlPbnNpWTJGd2RIVnlaU0k2ZXlKMGJ5STZNVFV3TlROOWZTd2lhVzVpYjNWdVpDSTZleUpqWVhCMGRYSmxJanA3SW5CdmNuUnpJanA3SW1Gc2JGOWxlR05sY0hRaU9sc2lNVFV3TWpBdE1UVXdNakVpTERFMU1Ea3dYWDBzSW5Sdklqb3hOVEF3Tm4xOUxDSnZkWFJpYjNWdVpDSTZleUpqWVhCMGRYSmxJanA3SW5Sdklqb3hOVEF3TVgxOUxDSndjbTk0ZVNJNmV5Sm5hV1J6SWpwYk1UTXpOMTBzSW5WcFpITWlPbHN4TXpNM1hYMTkifX1dfSx7InNldCI6W1siTmV0d29ya3MiLDAsIkR5bmFtaWNQb3J0cyJdLFtudWxsXSxbeyJMYWJlbCI6Im1lc2hfaGVhbHRoIn1dXX0seyJzZXQiOltbIk5ldHdvcmtzIiwwLCJNb2RlIl0sWyJicmlkZ2UiXSwiY25pL21lc2giXX0seyJzZXQiOltbIlNlcnZpY2VzIl0sW251bGxdLFt7Ik5hbWUiOiJtZXNoLXByb3h5LXBsYWluIn1dXX0seyJzZXQiOltbIlRhc2tzIixbMCwid29ya2VyIl0sIlNlcnZpY2VzIixbMCwid29ya2VyIl0sIkNoZWNrcyIsMCwiUGF0aCJdLFsiIl0sIi9hcHAtaGVhbHRoL3dvcmtlci8wIl19LHsic2V0IjpbWyJUYXNrcyIsWzAsIndvcmtlciJdLCJTZXJ2aWNlcyIsWzAsIndvcmtlciJdLCJDaGVja3MiLDAsIlBvcnRMYWJlbCJdLFsiNzAwMSJdLCJtZXNoX2hlYWx0aCJdfSx7InNldCI6W1siVGFza3MiLFswLCJ3b3JrZXIiXSwiU2VydmljZXMiLFswLCJ3b3JrZXIiXSwiQ2hlY2tzIiwwLCJUeXBlIl0sWyJ0Y3AiXSwiaHR0cCJdfSx7ImFkZCI6W1siVGFza3MiXSx7Ik5hbWUiOiJtZXNoLXByb3h5In1dfSx7ImFkZCI6W1siVGFza3MiXSx7Ik5hbWUiOiJtZXNoLXJlYWR5In1dfV0"
      "mesh.mode" = "cni"
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
      value = ">= 1.8.2"
    }
    constraint {
      attribute = "${attr.plugins.cni.version.mesh-cni}"
      operator = "semver"
      value = ">= 0.1.0"
    }

    task "mesh-proxy" {
      driver = "exec"
      user = "mesh-proxy"
      kill_signal = "SIGTERM"
      kill_timeout = "20s"
      shutdown_delay = "5s"
      meta = { "mesh.role" = "proxy" }
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
        data = "{\"mode\":\"cni\",\"trust_domain\":\"cluster.local\",\"mesh_namespace\":\"mesh-system\",\"service_account\":\"shop\",\"services\":[{\"name\":\"worker\",\"port\":7000,\"protocol\":\"tcp\"}],\"probes\":[{\"service\":\"worker\",\"index\":0,\"kind\":\"tcp\",\"port\":7001,\"timeout_ms\":1000}]}"
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
