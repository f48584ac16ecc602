'use strict';
// Positions come as 16-bit numbers within the organ's box, triangles as 32-bit indices, both in base64.
function bytes(text) { return Uint8Array.from(atob(text), function (c) { return c.charCodeAt(0); }); }
function unpack(organ) {
  const packed = new Uint16Array(bytes(organ.points).buffer), points = new Float32Array(packed.length);
  for (let i = 0; i < packed.length; i++) points[i] = organ.low[i % 3] + packed[i] / 65535 * organ.size[i % 3];
  return { points: points, faces: new Uint32Array(bytes(organ.faces).buffer) };
}
function normals(points, faces) {
  const sum = new Float32Array(points.length);
  for (let f = 0; f < faces.length; f += 3) {
    const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2], u = [], v = [];
    for (let k = 0; k < 3; k++) { u[k] = points[b + k] - points[a + k]; v[k] = points[c + k] - points[a + k]; }
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const at of [a, b, c]) for (let k = 0; k < 3; k++) sum[at + k] += n[k];
  }
  return sum;
}
function times(a, b) { // 3 x 3, by rows
  return a.map(function (_, i) { const r = 3 * Math.floor(i / 3), c = i % 3; return a[r] * b[c] + a[r + 1] * b[3 + c] + a[r + 2] * b[6 + c]; });
}
function turned(matrix, right, down) {
  const c = Math.cos(right), s = Math.sin(right), d = Math.cos(down), t = Math.sin(down);
  return times([1, 0, 0, 0, d, -t, 0, t, d], times([c, 0, s, 0, 1, 0, -s, 0, c], matrix));
}
const FRONT = [-1, 0, 0, 0, 0, 1, 0, 1, 0]; // right, anterior, superior -> right, up and near for who faces the patient

const VERTEX = `attribute vec3 at, out_; uniform mat3 turn; uniform vec3 middle; uniform vec2 scale, shift; uniform float depth;
varying vec3 normal; void main() { vec3 p = turn * (at - middle); normal = turn * out_;
gl_Position = vec4(p.xy * scale + shift, -p.z * depth, 1.0); }`;
const FRAGMENT = `precision mediump float; varying vec3 normal; uniform vec3 color;
void main() { vec3 n = normalize(normal); float light = max(dot(n, normalize(vec3(0.3, 0.5, 0.8))), 0.0);
gl_FragColor = vec4(color * (0.35 + 0.65 * light), 1.0); }`;

function start(document, window) {
  const organs = JSON.parse(document.getElementById('organs').textContent);
  const canvas = document.querySelector('canvas'), said = document.querySelector('output');
  const gl = canvas.getContext('webgl');
  if (!gl || !gl.getExtension('OES_element_index_uint')) { said.textContent = 'This browser cannot draw it (no WebGL).'; return; }
  const program = gl.createProgram();
  [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]].forEach(function (pair) {
    const shader = gl.createShader(pair[0]);
    gl.shaderSource(shader, pair[1]); gl.compileShader(shader); gl.attachShader(program, shader);
  });
  gl.linkProgram(program); gl.useProgram(program); gl.enable(gl.DEPTH_TEST);
  const where = {};
  ['turn', 'middle', 'scale', 'shift', 'depth', 'color'].forEach(function (n) { where[n] = gl.getUniformLocation(program, n); });
  const at = gl.getAttribLocation(program, 'at'), out = gl.getAttribLocation(program, 'out_');
  const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
  const shapes = organs.map(function (organ) {
    const mesh = unpack(organ), made = { color: organ.color, count: mesh.faces.length, shown: true };
    [['points', gl.ARRAY_BUFFER, mesh.points], ['normals', gl.ARRAY_BUFFER, normals(mesh.points, mesh.faces)],
      ['faces', gl.ELEMENT_ARRAY_BUFFER, mesh.faces]].forEach(function (part) {
      made[part[0]] = gl.createBuffer(); gl.bindBuffer(part[1], made[part[0]]); gl.bufferData(part[1], part[2], gl.STATIC_DRAW);
    });
    for (let k = 0; k < 3; k++) { low[k] = Math.min(low[k], organ.low[k]); high[k] = Math.max(high[k], organ.low[k] + organ.size[k]); }
    return made;
  });
  const middle = low.map(function (v, k) { return (v + high[k]) / 2; });
  const radius = Math.hypot(high[0] - low[0], high[1] - low[1], high[2] - low[2]) / 2 || 1;
  let matrix = turned(FRONT, 0.5, 0.25), zoom = 1, shift = [0, 0], asked = false;
  function draw() {
    asked = false;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio; canvas.height = canvas.clientHeight * ratio;
    gl.viewport(0, 0, canvas.width, canvas.height);
    const dark = window.matchMedia('(prefers-color-scheme: dark)').matches;
    gl.clearColor(dark ? 0.105 : 0.98, dark ? 0.105 : 0.98, dark ? 0.113 : 0.973, 1); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const side = Math.min(canvas.width, canvas.height), m = matrix;
    gl.uniformMatrix3fv(where.turn, false, [m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]]);
    gl.uniform3fv(where.middle, middle);
    gl.uniform2f(where.scale, zoom * side / canvas.width / radius, zoom * side / canvas.height / radius);
    gl.uniform2fv(where.shift, shift); gl.uniform1f(where.depth, 0.5 / radius);
    shapes.forEach(function (shape) {
      if (!shape.shown) return;
      gl.uniform3fv(where.color, shape.color.map(function (v) { return v / 255; }));
      [[at, shape.points], [out, shape.normals]].forEach(function (pair) {
        gl.bindBuffer(gl.ARRAY_BUFFER, pair[1]); gl.enableVertexAttribArray(pair[0]); gl.vertexAttribPointer(pair[0], 3, gl.FLOAT, false, 0, 0);
      });
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, shape.faces); gl.drawElements(gl.TRIANGLES, shape.count, gl.UNSIGNED_INT, 0);
    });
  }
  function ask() { if (!asked) { asked = true; window.requestAnimationFrame(draw); } }
  const boxes = organs.map(function (organ, i) {
    const label = document.createElement('label'), box = document.createElement('input'), dot = document.createElement('i');
    const name = document.createElement('span'), volume = document.createElement('small');
    box.type = 'checkbox'; box.checked = true; dot.style.background = 'rgb(' + organ.color.join(',') + ')';
    name.textContent = organ.name; volume.textContent = organ.volume;
    label.append(box, dot, name, volume); document.querySelector('form').append(label);
    box.addEventListener('change', function () { shapes[i].shown = box.checked; ask(); });
    return box;
  });
  [['all', true], ['none', false]].forEach(function (pair) {
    document.getElementById(pair[0]).addEventListener('click', function () {
      boxes.forEach(function (box, i) { box.checked = shapes[i].shown = pair[1]; }); ask();
    });
  });
  document.getElementById('front').addEventListener('click', function () { matrix = FRONT; zoom = 1; shift = [0, 0]; ask(); });
  const fingers = new Map();
  canvas.addEventListener('pointerdown', function (e) { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, [e.clientX, e.clientY]); });
  ['pointerup', 'pointercancel'].forEach(function (n) { canvas.addEventListener(n, function (e) { fingers.delete(e.pointerId); }); });
  canvas.addEventListener('pointermove', function (e) {
    const before = fingers.get(e.pointerId);
    if (!before) return;
    const x = e.clientX - before[0], y = e.clientY - before[1];
    if (fingers.size === 2) {
      const other = Array.from(fingers.entries()).filter(function (f) { return f[0] !== e.pointerId; })[0][1];
      zoom *= Math.hypot(e.clientX - other[0], e.clientY - other[1]) / (Math.hypot(before[0] - other[0], before[1] - other[1]) || 1);
    } else if (e.shiftKey) shift = [shift[0] + 2 * x / canvas.clientWidth, shift[1] - 2 * y / canvas.clientHeight];
    else matrix = turned(matrix, x * 0.01, y * 0.01);
    fingers.set(e.pointerId, [e.clientX, e.clientY]); ask();
  });
  canvas.addEventListener('wheel', function (e) { e.preventDefault(); zoom *= Math.exp(-e.deltaY * 0.001); ask(); }, { passive: false });
  window.addEventListener('keydown', function (e) {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
    if (step) matrix = turned(matrix, step[0], step[1]);
    else if (e.key === '+' || e.key === '-') zoom *= e.key === '+' ? 1.1 : 1 / 1.1;
    else return;
    e.preventDefault(); ask();
  });
  window.addEventListener('resize', ask); ask();
}
if (typeof document !== 'undefined') start(document, window);
